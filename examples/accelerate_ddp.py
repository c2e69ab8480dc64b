"""Accelerate, on two processes: `torchrun --nproc-per-node 2 examples/accelerate_ddp.py photos`.

The steps need not be prepared: the sampler knows its rank. Stop the program and start it again, on another number of
processes if you like: it continues after the last step.
"""

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from pictures import Network, arguments, pictures, step_loader


def main() -> None:
    args = arguments(__doc__)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    with accelerator.main_process_first():
        dataset = pictures(args)
    steps = step_loader(dataset, args)
    model = Network(dataset.num_classes)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.02))
    accelerator.register_for_checkpointing(steps)
    num_steps = 0

    checkpoint = args.out / "last"
    if checkpoint.exists():
        accelerator.load_state(checkpoint)

    for epoch in range(steps.sampler.epoch, args.epochs):
        for step in steps:
            for (pixels, sizes, labels), is_last in step:
                # Gradients are reduced once a step, since ranks may run different numbers of micro-batches.
                with nullcontext() if is_last else accelerator.no_sync(model):
                    logits = model(pixels.to(accelerator.device), sizes)
                    labels = labels.to(accelerator.device)
                    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
                    accelerator.backward(loss * step.weight)
            optimizer.step()
            optimizer.zero_grad()
            accelerator.print(f"epoch {epoch}, step {step.number}: {step.num_images} images")
            accelerator.save_state(checkpoint)
            num_steps += 1
            if num_steps == args.stop_after:
                accelerator.end_training()
                return
    accelerator.end_training()


if __name__ == "__main__":
    main()
