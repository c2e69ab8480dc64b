"""A plain PyTorch loop over pictures of every size: `python examples/plain_loop.py photos`.

Stop it and start it again: it continues after the last step, with the remaining pictures of the epoch.
"""

import torch
from pictures import Network, arguments, pictures, step_loader


def main() -> None:
    args = arguments(__doc__)
    dataset = pictures(args)
    steps = step_loader(dataset, args)
    model = Network(dataset.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    num_steps = 0

    checkpoint = args.out / "last.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        steps.load_state_dict(state["steps"])

    for epoch in range(steps.sampler.epoch, args.epochs):
        for step in steps:
            for (pixels, sizes, labels), _ in step:
                loss = torch.nn.functional.cross_entropy(model(pixels, sizes), labels, reduction="sum")
                (loss * step.weight).backward()
            optimizer.step()
            optimizer.zero_grad()
            print(f"epoch {epoch}, step {step.number}: {step.num_images} images in {len(step)} micro-batches")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": steps.state_dict()}
            torch.save(state, checkpoint)
            num_steps += 1
            if num_steps == args.stop_after:
                return


if __name__ == "__main__":
    main()
