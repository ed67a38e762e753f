"""The lesson on sets of channels: an agent like AMC's (DDPG) chooses the widths of its networks.

    python book/reproductions/long_channel_sets.py [networks]

writes ``long_channel_sets.json`` beside this file. The networks are those of the lesson's second half,
and so are budget, images, ranking and repair. The agent decides layer after layer and is clipped by
the budget (``widths.affordable``). It runs once with the sizes and rates of the authors' code and once
with smaller networks and faster rates. Its opponents get the same number of looks: choices of shares
at random. All choices in steps of 5 % are tried, too, and the same share for every layer. A look is an
accuracy on training images set aside. Nothing was tuned. Each finished network is kept in the
temporary folder, so that an interrupted run goes on with the next one.
"""

import copy
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise, product

import record
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import data, models, seeds, training
from course_lib.pruning import channel_criteria, channels
from course_lib.search import widths
from course_lib.training import Plan

SHAPE, SHARE = (196, 100, 60, 40, 10), 0.36
ASIDE, FEW, EPOCHS, LOOKS = 500, 500, 10, (100, 400, 800)
AGENTS = {  # hidden units, rates of actor and critic, and episodes with random actions
    "agent, as in the authors' code": {"hidden": 300, "rates": (1e-4, 1e-3), "random": 100},
    "agent, smaller and faster": {"hidden": 64, "rates": (1e-3, 1e-3), "random": 30},
}
BATCH, SOFT, NOISE, COOLING, MIXED, KEPT = 64, 0.01, 0.5, 0.95, 0.5, 100  # the code's
VERDICT = (
    "With as many looks, an agent with the settings of the authors' code finds widths for "
    "which no difference shows from random choices, nor from the best of a whole grid. The "
    "repair is worth far more than any search, and with it even the same share for every "
    "layer comes close. The smaller, faster agent finds hardly anything better after its "
    "first hundred looks."
)
DIFFERENCES = [
    "The networks are the lesson's MLPs; the paper prunes convolutional networks on ImageNet and "
    + "CIFAR-10.",
    "All layers of a network are decided one by one; the authors' code keeps at least 20 % of each, we "
    + "keep 10 %.",
    "Channels are ranked by Taylor's score, as in the lesson.",
]
Look = Callable[[dict[str, int]], float]  # widths -> accuracy on the images set aside, in %


def perceptron(sizes: tuple[int, ...], last: nn.Module, g: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them; weights from this generator."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layer = nn.Linear(n_in, n_out)
        with torch.no_grad():
            layer.weight.uniform_(-(n_in**-0.5), n_in**-0.5, generator=g)
            layer.bias.uniform_(-(n_in**-0.5), n_in**-0.5, generator=g)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1], last)


class Agent:
    """DDPG: an actor, a critic, slow copies of both, and a memory.

    Every step of an episode is rewarded with the reward R at its end. With b the moving mean of the
    rewards in minibatches, the critic learns :math:`R - b + Q'(s_{t+1}, \\mu'(s_{t+1}))`, without the
    last term at the last layer.
    """

    def __init__(self, hidden: int, rates: tuple[float, float], random: int, seed: int):
        """Make networks of two hidden layers each; ``random`` episodes take actions at random."""
        self.g = seeds.generator(seed)
        self.actor = perceptron((11, hidden, hidden, 1), nn.Sigmoid(), self.g)
        self.critic = perceptron((12, hidden, hidden, 1), nn.Identity(), self.g)
        self.slow = copy.deepcopy(nn.ModuleList([self.actor, self.critic]))
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=lr)
            for net, lr in zip((self.actor, self.critic), rates, strict=True)
        ]
        self.random, self.episode, self.baseline = random, 0, None
        self.memory: list[tuple[Tensor, ...]] = []

    @torch.no_grad()
    def act(self, state: Tensor) -> float:
        """The share to keep, with noise: a normal distribution cut off at 0 and 1."""
        if self.episode < self.random:
            return float(torch.rand((), generator=self.g))
        sd = NOISE * COOLING ** (self.episode - self.random)
        mean = float(self.actor(state))
        action = torch.empty(1)
        nn.init.trunc_normal_(action, mean, max(sd, 1e-6), 0.0, 1.0, generator=self.g)
        return float(action)

    def learn(self) -> None:
        """One step of critic and actor, on a minibatch of the memory."""
        rows = torch.randint(len(self.memory), (BATCH,), generator=self.g).tolist()
        s, a, reward, after, more = map(torch.stack, zip(*(self.memory[r] for r in rows)))
        mean = float(reward.mean())
        self.baseline = (
            mean if self.baseline is None else MIXED * self.baseline + (1 - MIXED) * mean
        )
        slow_actor, slow_critic = self.slow
        with torch.no_grad():
            ahead = slow_critic(torch.cat([after, slow_actor(after)], 1))
            target = reward - self.baseline + more * ahead
        actor, critic = self.optimizers
        error = F.mse_loss(self.critic(torch.cat([s, a], 1)), target)
        critic.zero_grad()
        error.backward()
        critic.step()
        worth = self.critic(torch.cat([s, self.actor(s)], 1)).mean()
        actor.zero_grad()
        (-worth).backward()
        actor.step()
        with torch.no_grad():
            fast = [*self.actor.parameters(), *self.critic.parameters()]
            for slow, new in zip(self.slow.parameters(), fast, strict=True):
                slow.lerp_(new, SOFT)


def clipped(net: nn.Module, graph: channels.ChannelGraph, budget: int) -> Callable:
    """``widths.affordable`` for shares from 0 to 1; a question that was asked before costs nothing."""
    n = {layer: len(ids) for layer, ids in graph.layers().items()}

    @cache
    def width(decided: tuple, layer: str, wanted: int) -> int:
        share = wanted / n[layer]
        return widths.affordable(net, graph, dict(decided), layer, share, budget=budget)

    return lambda kept, layer, share: width(
        tuple(kept.items()), layer, max(1, round(share * n[layer]))
    )


def walk(graph: channels.ChannelGraph, clip: Callable, act: Callable) -> tuple[dict, list]:
    """The widths that ``act`` chooses from the first layer to the last, and what it saw and did."""
    kept: dict[str, int] = {}
    steps, last = [], 1.0
    for layer, ids in graph.layers().items():
        share, state = act(kept, layer, last)
        kept[layer] = clip(kept, layer, share)
        last = kept[layer] / len(ids)
        steps.append((state, share))  # as the agent wanted it, before the clip
    return kept, steps


def trained(agent: Agent, walk: Callable, see: Callable, look: Look) -> tuple[list[float], float]:
    """Accuracies of all episodes, and that of the final policy without noise."""

    def act(kept: dict, layer: str, last: float) -> tuple[float, Tensor]:
        state = see(kept, layer, last=last)
        return agent.act(state), state

    @torch.no_grad()
    def act_at_last(kept: dict, layer: str, last: float) -> tuple[float, Tensor]:
        state = see(kept, layer, last=last)
        return float(agent.actor(state)), state

    zero, seen = torch.zeros(11), []
    for agent.episode in range(max(LOOKS)):
        kept, steps = walk(act)
        seen.append(look(kept))
        reward = torch.tensor([widths.accuracy_reward(1 - seen[-1] / 100)])
        behind = [state for state, _ in steps[1:]] + [zero]
        for t, ((state, action), after) in enumerate(zip(steps, behind, strict=True)):
            more = torch.tensor([float(t + 1 < len(steps))])
            agent.memory.append((state, torch.tensor([action]), reward, after, more))
            del agent.memory[: -KEPT * len(steps)]
            if agent.episode >= agent.random:
                agent.learn()
    return seen, look(walk(act_at_last)[0])


def looking(net, graph, few, valid, repair: bool) -> Look:
    """A function that measures a network of these widths; a second look at the same costs nothing."""
    score = channel_criteria.taylor(net, graph, few)
    order = {
        layer: [graph.layers()[layer][k] for k in score[rows].argsort(descending=True).tolist()]
        for layer, rows in graph.rows().items()
    }

    @cache
    def measured(sizes: tuple[int, ...]) -> float:
        dead = {i for n, ids in zip(sizes, order.values(), strict=True) for i in ids[n:]}
        mended = channels.reconstruct(net, graph, dead, few.x) if repair else net
        return float(training.evaluate(channels.remove(mended, graph, dead), valid))

    return lambda kept: measured(tuple(kept[layer] for layer in order))


def run(seed: int, known: data.Split, repair: bool) -> dict[str, float]:
    """Best accuracies after some looks, and those of final policies, of one network."""
    n = len(known.y) - ASIDE
    train = data.Split(known.x[:n], known.y[:n])
    valid = data.Split(known.x[n:], known.y[n:])
    few = data.Split(train.x[:FEW], train.y[:FEW])
    net = models.mlp(SHAPE, seed=seed)
    training.fit(net, train, Plan(epochs=EPOCHS, seed=seed))
    graph = channels.trace(net, train.x[:1])
    uniform = {layer: round(SHARE * len(ids)) for layer, ids in graph.layers().items()}
    clip = clipped(net, graph, widths.macs(net, graph, uniform))
    look, go = looking(net, graph, few, valid, repair), partial(walk, graph, clip)
    see = partial(widths.layer_state, net, graph, x=train.x[:1])
    found = {"whole network": float(training.evaluate(net, valid)), "uniform": look(uniform)}
    g = seeds.generator(seed)
    chance = partial(torch.rand, (), generator=g)
    drawn = [look(go(lambda *_: (float(chance()), None))[0]) for _ in range(max(LOOKS))]
    seen = {"random": drawn}
    for name, setting in AGENTS.items():
        seen[name], final = trained(Agent(**setting, seed=seed), go, see, look)
        found[f"{name}, its final policy"] = final
    found |= {f"{name}, {n} looks": max(tries[:n]) for name, tries in seen.items() for n in LOOKS}
    grid = product([0.05 * k for k in range(2, 21)], repeat=3)
    ways = [go(lambda *_, rest=list(shares): (rest.pop(0), None))[0] for shares in grid]
    found["best of all choices in steps of 5 %"] = max(map(look, ways))
    return {name: round(value, 2) for name, value in found.items()}


def main(networks: int) -> None:
    """Run what is missing, and write the result file."""
    torch.set_num_threads(1)
    known, _ = data.load("glyphs", n_train=4500, n_test=2000)
    table, seconds = [], 0.0
    for how, repair in {"repaired": True, "as cut": False}.items():
        runs, taken = record.per_seed(
            __file__, networks, how, partial(run, known=known, repair=repair)
        )
        seconds += taken
        table += [
            record.row(f"{name}, {how}", "% accuracy", [one[name] for one in runs])
            for name in runs[0]
        ]
    record.write(
        __file__,
        experiment="He et al. 2018 (AMC): an agent chooses the widths of the lesson's networks",
        verdict=VERDICT,
        command=f"python book/reproductions/long_channel_sets.py {networks}",
        setting={
            "networks": "-".join(map(str, SHAPE)) + f", {EPOCHS} epochs",
            "budget": f"the multiplications with {SHARE:.0%} of each layer",
            "episodes": max(LOOKS),
            "images set aside": ASIDE,
            "images of the repair": FEW,
        },
        differences=DIFFERENCES,
        table=table,
        seconds=seconds,
    )


if __name__ == "__main__":
    main(*record.numbers(8))
