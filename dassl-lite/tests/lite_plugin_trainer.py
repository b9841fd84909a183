# ruff: noqa: PTH110, PTH111, PTH118, PTH123
"""A trainer file in CoOp's style: a frozen model, and a prompt learner that alone is registered."""

import os.path as osp

import torch
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint, load_pretrained_weights
from torch import nn
from torch.nn import functional as F


class PromptLearner(nn.Module):
    def __init__(self, cfg, classnames):
        super().__init__()
        n_cls, n_ctx, dim = len(classnames), cfg.TRAINER.LITEPROMPT.N_CTX, 6
        self.ctx = nn.Parameter(torch.empty(n_ctx, dim).normal_(std=0.02))
        self.drop = nn.Dropout(0.2)
        self.register_buffer("token_prefix", torch.randn(n_cls, 1, dim))
        self.register_buffer("token_suffix", torch.randn(n_cls, 2, dim))

    def forward(self):
        ctx = self.drop(self.ctx).unsqueeze(0).expand(len(self.token_prefix), -1, -1)
        return torch.cat([self.token_prefix, ctx, self.token_suffix], dim=1)


class CustomModel(nn.Module):
    def __init__(self, cfg, classnames):
        super().__init__()
        self.prompt_learner = PromptLearner(cfg, classnames)
        self.image_encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6))
        self.text_encoder = nn.Linear(6 * (3 + cfg.TRAINER.LITEPROMPT.N_CTX), 6)

    def forward(self, image):
        text = self.text_encoder(self.prompt_learner().flatten(1))
        return 10 * F.normalize(self.image_encoder(image), dim=-1) @ F.normalize(text, dim=-1).t()


@TRAINER_REGISTRY.register()
class LitePrompt(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.LITEPROMPT.PREC in ["fp32", "amp"]

    def build_model(self):
        cfg = self.cfg
        classnames = self.dm.dataset.classnames
        print(f"Building custom model for {len(classnames)} classes")
        self.model = CustomModel(cfg, classnames)
        for name, param in self.model.named_parameters():
            if "prompt_learner" not in name:
                param.requires_grad_(False)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model.prompt_learner, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)
        self.scaler = None

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        loss_summary = {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return loss_summary

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def load_model(self, directory, epoch=None):
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            model_file = "model-best.pth.tar" if epoch is None else "model.pth.tar-" + str(epoch)
            model_path = osp.join(directory, name, model_file)
            if not osp.exists(model_path):
                raise FileNotFoundError(f'Model not found at "{model_path}"')
            checkpoint = load_checkpoint(model_path)
            state_dict = checkpoint["state_dict"]
            for key in ("token_prefix", "token_suffix"):
                if key in state_dict:
                    del state_dict[key]
            print(f'Loading weights to {name} from "{model_path}" (epoch = {checkpoint["epoch"]})')
            self._models[name].load_state_dict(state_dict, strict=False)
