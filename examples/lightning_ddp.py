"""Lightning, on two processes: `python examples/lightning_ddp.py photos --devices 2`.

Lightning takes the steps as its batches, saves and loads their state with its checkpoints, and wraps nothing. Stop the
program and start it again, on another number of devices if you like: it continues after the last step.
"""

from contextlib import nullcontext

from pictures import Network, arguments, pictures, step_loader  # before Lightning: see there

# isort: split
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint


class Classifier(pl.LightningModule):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.automatic_optimization = False  # one update for several backward passes
        self.model = Network(num_classes)

    def training_step(self, step, _) -> None:
        for (pixels, sizes, labels), is_last in step:
            # Gradients are reduced once a step, since ranks may run different numbers of micro-batches.
            with nullcontext() if is_last else self.trainer.strategy.block_backward_sync():
                logits = self.model(pixels.to(self.device), sizes)
                loss = torch.nn.functional.cross_entropy(logits, labels.to(self.device), reduction="sum")
                self.manual_backward(loss * step.weight)
        optimizer = self.optimizers()
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02)


def main() -> None:
    args = arguments(__doc__)
    dataset = pictures(args)
    keep = ModelCheckpoint(args.out, "last", every_n_train_steps=1, enable_version_counter=False)
    trainer = pl.Trainer(
        accelerator="auto" if torch.cuda.is_available() else "cpu",
        devices=args.devices,
        strategy="ddp",
        use_distributed_sampler=False,
        max_epochs=args.epochs,
        max_steps=args.stop_after,
        callbacks=[keep],
        logger=False,
    )
    last = args.out / "last.ckpt"
    trainer.fit(Classifier(dataset.num_classes), step_loader(dataset, args), ckpt_path=last if last.exists() else None)


if __name__ == "__main__":
    main()
