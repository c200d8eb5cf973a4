"""Twelve architectures in plain torch, small and with random weights, built as their papers and exporters have them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, gate: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels // 4, 1), activation, nn.Conv2d(channels // 4, channels, 1), gate
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.body(x)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]  # fmt: skip


class Inverted(nn.Module):
    """The block of MobileNetV3 and EfficientNet: expand, depthwise, squeeze and excite, project."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module], gate: type[nn.Module]) -> None:  # fmt: skip
        super().__init__()
        wide = inputs * 4
        self.body = nn.Sequential(
            *conv_bn(inputs, wide, 1), activation(), *conv_bn(wide, wide, 3, stride, groups=wide), activation(),
            SqueezeExcite(wide, gate(), activation()), *conv_bn(wide, outputs, 1),
        )  # fmt: skip
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def inverted_net(activation: type[nn.Module], gate: type[nn.Module]) -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return Inverted(inputs, outputs, stride, activation, gate)

    return nn.Sequential(
        *conv_bn(3, 16, 3, 2), activation(), block(16, 16, 1), block(16, 24, 2), block(24, 24, 1),
        *conv_bn(24, 64, 1), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64), activation(),
        nn.Dropout(), nn.Linear(64, 10),
    )  # fmt: skip


class Attention(nn.Module):
    """Attention of separate ops, or of torch's fused function."""

    def __init__(self, width: int, heads: int, *, fused: bool, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            self._split(p(s)) for p, s in ((self.query, x), (self.key, context), (self.value, context))
        )
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            y = (scores if mask is None else scores + mask).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Encoder(nn.Module):
    """A layer of a transformer: norms before (ViT, Whisper), or after (BERT)."""

    def __init__(self, width: int, heads: int, *, fused: bool, before: bool, cross: bool = False) -> None:
        super().__init__()
        self.before, self.attention = before, Attention(width, heads, fused=fused)
        self.cross = Attention(width, heads, fused=fused) if cross else None
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if cross else 2))

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        steps: list[Callable[[Tensor], Tensor]] = [lambda h: self.attention(h, mask=mask)]
        if self.cross is not None:
            steps.append(lambda h: self.cross(h, context))
        for norm, step in zip(self.norms, (*steps, self.mlp), strict=True):
            x = x + step(norm(x)) if self.before else norm(x + step(x))
        return x


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        self.layers = nn.ModuleList(Encoder(32, 4, fused=True, before=True) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class WindowAttention(nn.Module):
    """Attention in shifted windows with relative position bias, as in Swin."""

    def __init__(self, width: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.side, self.window, self.shift, self.heads = side, window, shift, heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        steps = (at[:, :, None] - at[:, None, :] + window - 1).permute(1, 2, 0)
        self.register_buffer("index", (steps * torch.tensor([2 * window - 1, 1])).sum(-1))
        regions = torch.zeros(side, side)
        for i, a in enumerate((slice(0, -window), slice(-window, -shift or None), slice(-shift, None))):
            for j, b in enumerate((slice(0, -window), slice(-window, -shift or None), slice(-shift, None))):
                regions[a, b] = 3 * i + j if shift else 0
        parts = self._windows(regions[None, :, :, None]).squeeze(-1)
        self.register_buffer("mask", (parts[:, None, :] != parts[:, :, None]).float() * -100.0)

    def _windows(self, x: Tensor) -> Tensor:
        w, n = self.window, self.side // self.window
        return x.reshape(-1, n, w, n, w, x.shape[-1]).transpose(2, 3).reshape(-1, w * w, x.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        n, w = self.side // self.window, self.window
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        q, k, v = self.qkv(self._windows(x)).reshape(-1, w * w, 3, self.heads, x.shape[-1] // self.heads).permute(2, 0, 3, 1, 4).unbind(0)  # fmt: skip
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        scores = scores + self.table[self.index.flatten()].reshape(w * w, w * w, -1).permute(2, 0, 1)
        if self.shift:
            scores = scores.reshape(-1, n * n, self.heads, w * w, w * w) + self.mask[:, None]
            scores = scores.flatten(0, 1)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = self.out(y).reshape(-1, n, n, w, w, x.shape[-1]).transpose(2, 3).reshape(-1, self.side, self.side, x.shape[-1])  # fmt: skip
        return torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.blocks = nn.ModuleList()
        for width, side in ((24, 8), (48, 4)):
            for shift in (0, 2) if side > 4 else (0,):
                self.blocks.append(nn.ModuleList([
                    nn.LayerNorm(width), WindowAttention(width, 3, side, 4, shift), nn.LayerNorm(width),
                    nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)),
                ]))  # fmt: skip
        self.merge_norm, self.merge = nn.LayerNorm(96), nn.Linear(96, 48, bias=False)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        for i, (first, attention, second, mlp) in enumerate(self.blocks):
            if i == 2:  # patches are merged, two by two
                x = torch.cat([x[:, a::2, b::2] for b in (0, 1) for a in (0, 1)], -1)
                x = self.merge(self.merge_norm(x))
            x = x + attention(first(x))
            x = x + mlp(second(x))
        return self.head(self.norm(x).mean((1, 2)))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of NCHW."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.wide, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.gamma = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.out(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), ChannelNorm(16), ConvNeXtBlock(16), ChannelNorm(16), nn.Conv2d(16, 32, 2, 2),
        ConvNeXtBlock(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 10),
    )  # fmt: skip


class UNet(nn.Module):
    """Two levels with GroupNorm and SiLU, up by ConvTranspose and by interpolation."""

    def __init__(self) -> None:
        super().__init__()

        def double(inputs: int, outputs: int) -> nn.Module:
            one = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU()]
            two = [nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU()]
            return nn.Sequential(*one, *two)

        self.first, self.second, self.bottom = double(3, 8), double(8, 16), double(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(16, 8, 1)
        self.back2, self.back1, self.head = double(32, 16), double(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(F.max_pool2d(first, 2))
        x = self.back2(torch.cat([self.up2(self.bottom(F.max_pool2d(second, 2))), second], 1))
        x = self.up1(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
        return self.head(self.back1(torch.cat([x, first], 1)))


class Suppress(torch.autograd.Function):
    """ONNX's NonMaxSuppression: plain torch has no such op, and torchvision's becomes this one."""

    @staticmethod
    def forward(ctx: object, boxes: Tensor, scores: Tensor) -> Tensor:
        return torch.zeros(1, 3, dtype=torch.int64)

    @staticmethod
    def symbolic(g: object, boxes: object, scores: object) -> object:
        constants = [g.op("Constant", value_t=torch.tensor([v])) for v in (20, 0.5, 0.05)]
        return g.op("NonMaxSuppression", boxes, scores, *constants)


class SSD(nn.Module):
    """A detector with two maps of anchors, decoded boxes, and NMS where the exporter has it."""

    def __init__(self, *, nms: bool) -> None:
        super().__init__()
        self.nms = nms
        self.stem = nn.Sequential(*conv_bn(3, 16, 3, 2), nn.ReLU6(), *conv_bn(16, 32, 3, 2), nn.ReLU6())
        self.deep = nn.Sequential(*conv_bn(32, 32, 3, 2, 32), nn.ReLU6(), *conv_bn(32, 48, 1), nn.ReLU6())
        self.boxes = nn.ModuleList(nn.Conv2d(c, 2 * 4, 3, padding=1) for c in (32, 48))
        self.classes = nn.ModuleList(nn.Conv2d(c, 2 * 5, 3, padding=1) for c in (32, 48))
        for head in self.classes:  # as after training: scores far apart, and most anchors hold nothing
            head.weight.data.mul_(4)
            head.bias.data.view(2, 5)[:, 0] = 2.0
        self.register_buffer("anchors", torch.rand(2 * (64 + 16), 4) * 0.5 + 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [first := self.stem(x), self.deep(first)]
        flat = [[h(m).permute(0, 2, 3, 1).flatten(1) for h, m in zip(hs, maps, strict=True)] for hs in (self.boxes, self.classes)]  # fmt: skip
        deltas, scores = (torch.cat(parts, 1) for parts in flat)
        deltas, scores = deltas.reshape(-1, 160, 4), scores.reshape(-1, 160, 5).softmax(-1)
        centres = deltas[..., :2] * 0.1 * self.anchors[:, 2:] + self.anchors[:, :2]
        sizes = (deltas[..., 2:] * 0.2).exp() * self.anchors[:, 2:]
        boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], -1)
        if not self.nms:
            return boxes, scores
        kept = Suppress.apply(boxes, scores[..., 1:].transpose(1, 2))
        return boxes, scores, boxes[kept[:, 0], kept[:, 2]]


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(200, 32), nn.Embedding(32, 32), nn.Embedding(2, 32)
        self.norm = nn.LayerNorm(32)
        self.layers = nn.ModuleList(Encoder(32, 4, fused=False, before=False) for _ in range(2))
        self.pool, self.head = nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.norm(self.words(ids) + self.places(places) + self.kinds(torch.zeros_like(ids)))
        mask = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        for layer in self.layers:
            x = layer(x, mask)
        return x, self.head(torch.tanh(self.pool(x[:, 0])))


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class T5Layer(nn.Module):
    """Attention with relative position bias, RMS norms and a gated tanh-GELU."""

    def __init__(self, *, decoder: bool) -> None:
        super().__init__()
        self.attention = Attention(32, 4, fused=False, bias=False)
        self.cross = Attention(32, 4, fused=False, bias=False) if decoder else None
        self.gate, self.wide, self.out = (
            nn.Linear(32, 64, False),
            nn.Linear(32, 64, False),
            nn.Linear(64, 32, False),
        )
        self.norms = nn.ModuleList(RMSNorm(32) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norms[0](x), mask=bias)
        if self.cross is not None:
            x = x + self.cross(self.norms[1](x), context)
        h = self.norms[2](x)
        return x + self.out(F.gelu(self.gate(h), approximate="tanh") * self.wide(h))


class T5(nn.Module):
    """An encoder, or a decoder whose output projection is its table of words."""

    def __init__(self, *, decoder: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.words, self.bias = nn.Embedding(200, 32), nn.Embedding(16, 4)
        self.layers = nn.ModuleList(T5Layer(decoder=decoder) for _ in range(2))
        self.norm = RMSNorm(32)

    def forward(self, ids: Tensor, context: Tensor | None = None) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        steps = places[None, :] - places[:, None]
        bucket = (steps + 8).clamp(0, 15)
        bias = self.bias(bucket).permute(2, 0, 1)[None]
        if self.decoder:
            bias = bias.masked_fill(steps > 0, torch.finfo(torch.float32).min)
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x, bias, context)
        x = self.norm(x)
        return (x * 32**-0.5) @ self.words.weight.T if self.decoder else x


class Whisper(nn.Module):
    """Two convolutions over a spectrogram, encoder layers, and decoder layers that attend to them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(20, 32, 3, padding=1), nn.Conv1d(32, 32, 3, 2, 1)
        self.register_buffer("places", torch.randn(16, 32))
        self.encoder = nn.ModuleList(Encoder(32, 4, fused=True, before=True) for _ in range(2))
        self.words, self.marks = nn.Embedding(100, 32), nn.Parameter(torch.randn(12, 32) * 0.1)
        self.decoder = nn.ModuleList(Encoder(32, 4, fused=False, before=True, cross=True) for _ in range(2))
        self.middle, self.norm = nn.LayerNorm(32), nn.LayerNorm(32)

    def forward(self, spectrogram: Tensor, tokens: Tensor) -> Tensor:
        x = F.gelu(self.second(F.gelu(self.first(spectrogram)))).transpose(1, 2) + self.places
        for layer in self.encoder:
            x = layer(x)
        x = self.middle(x)
        length = tokens.shape[1]
        mask = torch.full((length, length), float("-inf"), device=tokens.device).triu(1)
        y = self.words(tokens) + self.marks[:length]
        for layer in self.decoder:
            y = layer(y, mask, x)
        return self.norm(y) @ self.words.weight.T


class Recurrent(nn.Module):
    """A bidirectional LSTM or a GRU with two layers over words, and a head for each word."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        both = kind is nn.LSTM
        self.words = nn.Embedding(100, 24)
        self.body = kind(24, 32, num_layers=2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(64 if both else 32, 40)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.words(ids))[0])
