"""Bring your own generator: a function that takes nothing and returns it is all that the command line needs.

Give it as a source, `examples/bring_your_own_generator.py:toy_decoder`, wherever a generator is asked for. What the
function returns has `latent_dim` (components n of one latent), `sample_latents(count, rng)` (latents (count, n) from
the distribution that the generator was trained with) and a call from latents to images (N, C, H, W) in about [-1, 1].
It must be a function of its latents: no dropout, no fresh noise. Load your weights inside the function; freezing and
moving to a device is done for you. A plain module or callable will do too where latents are N(0, I): then say
--latent-dim.
"""

import torch
from torch import nn


class ToyDecoder(nn.Sequential):
    """Six latents to 16-pixel RGB images, with random weights."""

    latent_dim = 6

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> torch.Tensor:
        """Draw z ~ N(0, I) on the device of `rng`, then move it to the weights."""
        z = torch.randn(count, self.latent_dim, generator=rng, device=rng.device if rng else None)
        return z.to(self[0].weight)


def toy_decoder() -> ToyDecoder:
    """Build the generator; here you would load a checkpoint."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(6, 256), nn.Unflatten(1, (16, 4, 4)), nn.SiLU()]
        for channels_in, channels_out in ((16, 8), (8, 3)):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.Tanh()]
        return ToyDecoder(*layers)
