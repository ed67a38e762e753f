"""The living page: its modules against torch and the library, and the page in a real browser."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_lib import models, training
from course_lib.compression import coding, quantization
from course_lib.pruning import allocate, channels, criteria, masks, sparse_training
from course_lib.teaching import playground

SHAPES = [(100, 196), (50, 100), (10, 50)]
SPARSITIES = (0.0, 0.1, 0.333, 0.5, 0.9, 0.95, 0.99, 1.0)
LOAD = """async ([code, numbers, settings]) => {
    const address = URL.createObjectURL(new Blob([code], { type: 'text/javascript' }));
    window.js = await import(address);
    window.all = await js.unpack(numbers, settings);
    // arrays travel as text, which is faster than as lists, and exact
    window.written = (masks) => masks.map((mask) => mask.join(''));
    window.raw = (numbers) => {
        const bytes = new Uint8Array(Float32Array.from(numbers).buffer);
        let text = '';
        bytes.forEach((byte) => { text += String.fromCharCode(byte); });
        return btoa(text);
    };
}"""


@pytest.fixture(scope="module")
def js(browser):
    """A page with nothing but the modules, `js`, and the network and images, `all`."""
    page = browser.new_page()
    page.set_content("<p>modules</p>")
    page.evaluate(LOAD, [playground.script(), playground.packed(), playground.settings()])
    yield page
    page.close()


def read(written, shapes=SHAPES):
    """Masks that came as text."""
    return [
        torch.tensor([c == "1" for c in text]).view(shape)
        for text, shape in zip(written, shapes, strict=True)
    ]


def floats(text):
    """Numbers that came as text."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.float32).copy())


def agree(found, expected):
    """Whether masks are equal, bit for bit."""
    pairs = zip(found, expected.values(), strict=True)
    return all(torch.equal(mask, keep) for mask, keep in pairs)


# ------------------------------------------------------------------------------------ the network


def test_python_and_the_page_have_the_same_network_and_images(js):
    net, state = playground.network(), playground.network().state_dict()
    found = js.evaluate("all.net.flatMap(({ weight, bias }) => [raw(weight), raw(bias)])")
    for values, expected in zip(found, state.values(), strict=True):
        assert torch.equal(floats(values), expected.flatten())
    for part in ("train", "test"):
        x, y = playground.images(part)
        assert torch.equal(floats(js.evaluate(f"raw(all.{part}.images)")), x.flatten())
        assert js.evaluate(f"[...all.{part}.labels]") == y.tolist()
    right = js.evaluate("js.accuracy(all.net, all.test.images, all.test.labels)")
    assert right == pytest.approx(
        float(training.evaluate(net, playground.images("test"))), abs=1e-4
    )
    with pytest.raises(ValueError, match="part must be 'train' or 'test', got 'valid'"):
        playground.images("valid")


def test_forward_equals_torch_under_a_hundred_random_masks(js):
    x = playground.images("test").x
    found = js.evaluate("""() => Array.from({ length: 100 }, (_, seed) => {
        const data = { ...all.train, seed };
        const net = js.cut(all.net, data, { criterion: 'random', allocation: 'globally',
            structure: 'weights', sparsity: (seed + 0.5) / 100 },
            { random: js.CRITERIA.random(all.net, data) });
        return { masks: written(net.map(({ mask }) => mask)),
            out: raw(js.forward(net, all.test.images.subarray(0, 196 * 20), 20).pop()),
            right: js.accuracy(net, all.test.images, all.test.labels) };
    })""")
    for seed, run in enumerate(found):
        net = playground.network()
        keep = allocate.globally(criteria.random(net, seed=seed), (seed + 0.5) / 100)
        assert agree(read(run["masks"]), keep)
        masks.apply(net, keep)
        expected = net(x[:20]).detach().flatten()
        torch.testing.assert_close(floats(run["out"]), expected, rtol=1e-5, atol=1e-5)
        exact = float(training.evaluate(net, playground.images("test")))
        assert run["right"] == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_gradient_and_ten_steps_equal_torch(js, sparsity):
    found = js.evaluate(
        """(sparsity) => {
        const state = { criterion: 'magnitude', allocation: 'globally', structure: 'weights', sparsity };
        const net = js.cut(all.net, all.train, state);
        const velocity = js.still(net);
        const flat = (parts) => parts.flatMap(({ weight, bias }) => [...weight, ...bias]);
        const slopes = [];
        for (let k = 0; k < 10; k++) {
            const places = Array.from({ length: 100 }, (_, i) => 100 * k + i);
            const { images, labels } = js.gather(all.train, places);
            slopes.push(js.gradient(net, images, labels));
            js.step(net, slopes[k], velocity, { rate: 0.1, momentum: 0.9 });
        }
        return [flat(slopes[0]), flat(net)].map(raw);
    }""",
        sparsity,
    )
    net, (x, y) = playground.network(), playground.images("train")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    masks.hold(optimizer, net, allocate.globally(criteria.magnitude(net), sparsity))
    for k in range(10):
        optimizer.zero_grad()
        here = slice(100 * k, 100 * k + 100)
        F.cross_entropy(net(x[here]), y[here]).backward()
        if k == 0:
            slopes = torch.cat([p.grad.flatten() for p in net.parameters()])
        optimizer.step()
    after = torch.cat([p.detach().flatten() for p in net.parameters()])
    torch.testing.assert_close(floats(found[0]), slopes, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(floats(found[1]), after, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------ masks


def library(scores, allocation, sparsity):
    """The library's masks."""
    if allocation == "globally":
        return allocate.globally(scores, sparsity)
    if allocation == "erdos_renyi":
        sparsity = allocate.erdos_renyi({n: s.shape for n, s in scores.items()}, sparsity)
    return allocate.per_layer(scores, sparsity)


@pytest.mark.filterwarnings("ignore:nothing is left")
@pytest.mark.parametrize("criterion", ["magnitude", "random", "input", "taylor"])
def test_masks_equal_the_library_bit_for_bit(js, criterion):
    found = js.evaluate(
        """([criterion, sparsities]) => {
        const scores = js.CRITERIA[criterion](all.net, { ...all.train, seed: 0 });
        const shapes = all.net.map(({ outputs, inputs }) => [outputs, inputs]);
        const cut = (allocation, s) => written(js.ALLOCATIONS[allocation](scores, s, shapes));
        return { scores: scores.map(raw), masks: Object.fromEntries(
            js.CHOICES.allocation.map((name) => [name, sparsities.map((s) => cut(name, s))])) };
    }""",
        [criterion, SPARSITIES],
    )
    exact = playground.scores(criterion)
    scores = {
        name: floats(values).view(s.shape)
        for (name, s), values in zip(exact.items(), found["scores"], strict=True)
    }
    for name, s in exact.items():
        torch.testing.assert_close(scores[name], s, rtol=1e-3, atol=1e-9)
    if criterion in ("magnitude", "random"):  # no sum was rounded: the scores are the library's
        assert all(torch.equal(scores[name], s) for name, s in exact.items())
    for allocation, of_sparsities in found["masks"].items():
        for sparsity, made in zip(SPARSITIES, of_sparsities, strict=True):
            assert agree(read(made), library(scores, allocation, sparsity)), (allocation, sparsity)


def test_scores_by_hand():
    net, (x, _) = playground.network(), playground.images("train")
    hidden = torch.relu(F.linear(x.flatten(1), net.fc1.weight, net.fc1.bias))
    expected = net.fc2.weight.abs() * hidden.square().sum(0).sqrt()
    torch.testing.assert_close(playground.scores("input")["fc2.weight"], expected.detach())
    with pytest.raises(ValueError, match="name must be one of magnitude, .*, got 'size'"):
        playground.scores("size")


@pytest.mark.filterwarnings("ignore:nothing is left")
@pytest.mark.parametrize("allocation", ["globally", "per_layer", "erdos_renyi"])
def test_of_equal_scores_the_earlier_stays_as_in_the_library(js, allocation):
    draw = torch.Generator().manual_seed(1)
    scores = {str(i): torch.randint(3, s, generator=draw).float() for i, s in enumerate(SHAPES)}
    sparsities = [0.1, 0.25, 0.5, 0.77, 0.9, 0.99]
    made = js.evaluate(
        """([scores, allocation, shapes, sparsities]) => {
        const rows = scores.map((s) => Float32Array.from(s));
        return sparsities.map((s) => written(js.ALLOCATIONS[allocation](rows, s, shapes)));
    }""",
        [[s.flatten().tolist() for s in scores.values()], allocation, SHAPES, sparsities],
    )
    for sparsity, found in zip(sparsities, made, strict=True):
        assert agree(read(found), library(scores, allocation, sparsity)), sparsity


@pytest.mark.parametrize("ties", [False, True])
def test_units_equal_the_library(js, ties):
    net = playground.network()
    if ties:
        for layer in (net.fc1, net.fc2):
            layer.weight.data = layer.weight.data.sign() * 0.5
    graph = channels.trace(net, torch.zeros(1, 1, 14, 14))
    of_units = [net.fc1.weight.abs().mean(1), net.fc2.weight.abs().mean(1)]
    made = js.evaluate(
        """([ties, sparsities]) => {
        const net = js.copy(all.net);
        if (ties) net.forEach((layer) => { layer.weight = layer.weight.map((w) => Math.sign(w) * 0.5); });
        const scores = js.unitScores(net, js.CRITERIA.magnitude(net));
        const cut = (s) => [js.weakest, js.weakestGlobally].map((way) => {
            const keep = way(scores, s);
            const { mask } = js.withoutUnits(net, keep)[1];
            return { keep: written(keep), mask: written([mask]) };
        });
        return { scores: scores.map(raw), cuts: sparsities.map(cut) };
    }""",
        [ties, SPARSITIES],
    )
    scores = torch.cat([floats(s) for s in made["scores"]])
    torch.testing.assert_close(scores, torch.cat(of_units).detach())
    ids = graph.ids()
    for sparsity, cuts in zip(SPARSITIES, made["cuts"], strict=True):
        for cut, way in zip(cuts, (channels.weakest, channels.weakest_globally), strict=True):
            dead = way(graph, scores, sparsity)
            stays = torch.tensor([i not in dead for i in ids]).split([100, 50])
            keep = read(cut["keep"], [(100,), (50,)])
            assert all(torch.equal(a, b) for a, b in zip(keep, stays, strict=True)), sparsity
            assert torch.equal(read(cut["mask"], [(50, 100)])[0], stays[1][:, None] & stays[0])


def test_the_network_without_units_is_the_silenced_one(js):
    net, (x, _) = playground.network(), playground.images("test")
    graph = channels.trace(net, x[:1])
    of_units = torch.cat([net.fc1.weight.abs().mean(1), net.fc2.weight.abs().mean(1)]).detach()
    silent = channels.silence(net, graph, channels.weakest(graph, of_units, 0.5))
    out = js.evaluate("""() => {
        const net = js.cut(all.net, all.train, { criterion: 'magnitude', allocation: 'per_layer',
            structure: 'units', sparsity: 0.5 });
        window.dead = js.deadUnits(net).map((units) => units.join(''));
        return raw(js.forward(net, all.test.images.subarray(0, 19600), 100).pop());
    }""")
    torch.testing.assert_close(
        floats(out).view(100, 10), silent(x[:100]).detach(), rtol=1e-5, atol=1e-5
    )
    assert [text.count("1") for text in js.evaluate("dead")] == [50, 25]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_a_move_of_set_equals_the_library(js, fraction):
    net = playground.network()
    keep = allocate.globally(criteria.random(net, seed=3), 0.9)
    masks.apply(net, keep)
    weights = {name: net.get_parameter(name).detach() for name in keep}
    state = sparse_training.State(weights, keep, {}, {}, torch.Generator().manual_seed(2**31 + 5))
    expected = sparse_training.set_step(state, fraction)
    made = js.evaluate(
        """(fraction) => {
        const net = js.masked(all.net, js.globally(js.CRITERIA.random(all.net, { seed: 3 }), 0.9));
        const velocity = js.still(net);
        velocity.forEach(({ weight }) => weight.fill(1));
        const before = net.map(({ mask }) => mask);
        js.setMove(net, velocity, fraction, new js.Random(2 ** 31 + 5));
        const fresh = net.flatMap(({ mask, weight }, l) => [...mask.keys()]
            .filter((i) => mask[i] && !before[l][i]).map((i) => [weight[i], velocity[l].weight[i]]));
        return { masks: written(net.map(({ mask }) => mask)), fresh,
            left: net.some(({ mask, weight }) => weight.some((w, i) => w !== 0 && !mask[i])) };
    }""",
        fraction,
    )
    assert agree(read(made["masks"]), expected)
    assert not made["left"] and all(pair == [0, 0] for pair in made["fresh"])
    assert bool(made["fresh"]) == (fraction > 0)


def test_an_epoch_of_set_has_twenty_steps_of_torch_and_three_moves_of_the_library(js):
    rate = playground.settings()["rates"]["random"]["moving"]
    fraction, every = playground.settings()["moves"].values()
    made = js.evaluate(
        """async (options) => {
        const net = js.masked(all.net, js.globally(js.CRITERIA.random(all.net, { seed: 3 }), 0.9));
        await js.epoch(net, all.train, options);
        return { order: [...new js.Random(options.seed).order(2000)],
            masks: written(net.map(({ mask }) => mask)), weights: net.map(({ weight }) => raw(weight)) };
    }""",
        {"rate": rate, "seed": 7, "fraction": fraction, "every": every},
    )
    net, (x, y) = playground.network(), playground.images("train")
    keep = allocate.globally(criteria.random(net, seed=3), 0.9)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    draw = torch.Generator().manual_seed(2**31 + 7)
    for k, here in enumerate(torch.tensor(made["order"]).split(100), start=1):
        masks.apply(net, keep)
        optimizer.zero_grad()
        F.cross_entropy(net(x[here]), y[here]).backward()
        optimizer.step()
        masks.apply(net, keep)
        if k in (5, 10, 15):
            weights = {name: net.get_parameter(name).detach() for name in keep}
            new = sparse_training.set_step(
                sparse_training.State(weights, keep, {}, {}, draw), fraction
            )
            for name, mask in new.items():
                optimizer.state[net.get_parameter(name)]["momentum_buffer"][mask & ~keep[name]] = 0
            keep = new
    masks.apply(net, keep)
    assert k == 20 and agree(read(made["masks"]), keep)
    for name, weights in zip(keep, made["weights"], strict=True):
        expected = net.get_parameter(name).detach().flatten()
        torch.testing.assert_close(floats(weights), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounded_weights_equal_the_library_bit_for_bit(js, bits):
    net = playground.network()
    found = js.evaluate(
        "(bits) => js.quantized(all.net, bits).map(({ weight }) => raw(weight))", bits
    )
    rounded = quantization.ptq(net, bits, per_channel=False)
    for values, layer in zip(found, (rounded.fc1, rounded.fc2, rounded.fc3), strict=True):
        assert torch.equal(floats(values), layer.weight.detach().flatten())
    assert js.evaluate("js.quantized(all.net, 32) === all.net")
    halves = js.evaluate("[-1.5, -0.5, 0.5, 1.5, 2.5, 2.4, -2.6].map(js.roundEven)")
    assert halves == [round(x) for x in (-1.5, -0.5, 0.5, 1.5, 2.5, 2.4, -2.6)]


@pytest.mark.parametrize("bits", [32, 8, 4, 2])
def test_the_file_is_the_librarys_byte_for_byte(js, bits, tmp_path):
    for sparsity in (0.0, 0.5, 0.9, 0.99, 1.0):
        net = playground.network()
        masks.apply(net, allocate.per_layer(criteria.magnitude(net), sparsity))
        if bits < 32:
            net = quantization.ptq(net, bits, per_channel=False)
        coding.save(net, tmp_path / "net")
        text = js.evaluate(
            """([sparsity, bits, fingerprint]) => {
            const net = js.cut(all.net, all.train, { criterion: 'magnitude',
                allocation: 'per_layer', structure: 'weights', sparsity });
            const file = js.coded(js.quantized(net, bits), fingerprint);
            return btoa(Array.from(file, (byte) => String.fromCharCode(byte)).join(''));
        }""",
            [sparsity, bits, playground.settings()["fingerprint"]],
        )
        assert base64.b64decode(text) == (tmp_path / "net").read_bytes(), sparsity


def test_no_learning_rate_lies_at_an_end_of_those_that_were_tried():
    found = playground.recorded()
    for best, low, high in [*found["rates"].reshape(-1, 3), *found["opponents_rate"]]:
        assert low < best < high


def test_opponents_are_small_networks_with_files_of_the_same_kind(tmp_path):
    net = quantization.ptq(playground.cut("magnitude", 0.9), 4, per_channel=False)
    assert playground.file_bytes(net) == coding.save(net, tmp_path / "net")
    assert playground.rounded(net, 32) is net
    shown = playground.opponents()
    assert [one["weights"] for one in shown] == sorted({one["weights"] for one in shown})
    for one in shown:
        a, b = one["units"]
        assert one["weights"] == 196 * a + a * b + b * 10
        plain = 12 + 6 + 4 * (one["weights"] + a + b + 10)  # header, a form per tensor, numbers
        assert (one["bytes"][32] == plain) if one["weights"] < 5000 else one["bytes"][32] <= plain
        assert list(one["bytes"].values()) == sorted(one["bytes"].values(), reverse=True)
    largest = shown[-1]
    assert largest["units"] == [100, 50]
    assert abs(largest["right"][32] - playground.right(playground.network())) < 2


@pytest.mark.parametrize("bits", playground.BITS)
def test_the_opponent_is_the_largest_whose_file_is_no_longer(js, bits):
    shown = playground.opponents()
    ends = [one["bytes"][bits] for one in shown]
    budgets = sorted({end + more for end in ends for more in (-1, 0, 1)})
    found = js.evaluate(
        "([all, budgets, bits]) => budgets.map((bytes) => js.opponent(all, bytes, bits) ?? null)",
        [json.loads(json.dumps(shown)), budgets, bits],
    )
    for budget, one in zip(budgets, found, strict=True):
        fitting = [other for other in shown if other["bytes"][bits] <= budget]
        if not fitting:
            assert one is None
            continue
        exact = max(fitting, key=lambda other: other["weights"])
        assert one["units"] == exact["units"]
        assert one["kind"] == ("Another" if exact is shown[-1] else "A small")
        assert [one["bytes"], one["right"]] == [exact["bytes"][bits], exact["right"][bits]]


@pytest.mark.parametrize(
    "counts", [[5, 2, 1, 1], [1, 1, 1, 1, 1], [0, 3, 0], [7, 7, 3, 3, 3, 1, 0, 1], [1, 2, 4, 8, 16]]
)
def test_huffmans_code_equals_the_library(js, counts):
    lengths = js.evaluate("(counts) => [...js.codeLengths(counts)]", counts)
    assert lengths == coding.code_lengths(counts)
    assert js.evaluate("(lengths) => js.canonical(lengths)", lengths) == coding.canonical(lengths)
    assert js.evaluate("js.crc32([1, 2, 3, 255])") == zlib.crc32(bytes([1, 2, 3, 255]))


# ---------------------------------------------------------------------------- drawing, the address


def test_a_drawing_is_centred_and_as_large_as_a_glyph(js):
    strokes = [[[0.1, 0.1], [0.1, 0.3]], [[0.2, 0.1], [0.2, 0.3]]]
    image, moved = (
        np.array(js.evaluate("(s) => [...js.rasterised(s)]", s)).reshape(14, 14)
        for s in (strokes, [[[3 * x + 5, 3 * y + 1] for x, y in stroke] for stroke in strokes])
    )
    assert np.array_equal(image, moved)  # neither place nor size on the pad counts
    assert np.array_equal(image, image[::-1]) and np.array_equal(image, image[:, ::-1])
    rows = np.flatnonzero(image.any(1))
    high = np.flatnonzero((playground.images("test").x > 0.5).any(-1).float().mean((0, 1)) > 0.25)
    assert abs(len(rows) - len(high)) <= 2
    assert set(np.round(15 * image.flatten(), 6) % 1) == {0}
    assert js.evaluate("[js.rasterised([]), js.rasterised([[]])]") == [None, None]
    point = np.array(js.evaluate("[...js.rasterised([[[0.5, 0.5]]])]"))
    assert point.any() and np.isfinite(point).all()


def test_the_address_is_read_with_care(js):
    start = playground.settings()["start"]
    read = js.evaluate(
        "([f, start]) => js.fromFragment(f, start, 1000)",
        ["#sparsity=0.5&criterion=random&bits=4&image=7&x=1&allocation=all", start],
    )
    assert read["state"] == start | {"sparsity": 0.5, "criterion": "random", "bits": 4, "image": 7}
    assert read["unknown"] == ["x=1", "allocation=all"]
    for bad in "sparsity=2 sparsity= bits=1 bits=9 bits=2.5 image=-1 image=1000 image=0.5 sparsity=NaN".split():
        read = js.evaluate("([f, start]) => js.fromFragment(f, start, 1000)", ["#" + bad, start])
        assert read == {"state": start, "unknown": [bad]}
    there = js.evaluate("(start) => js.toFragment(start)", start)
    assert js.evaluate("([f]) => js.fromFragment(f, {}, 1000)", [there])["state"] == start


# ---------------------------------------------------------------------------------------- the page

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Playground</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>html[data-theme=dark] {{ background: #121212; color: #ced6dd; color-scheme: dark }}</style>
</head><body><main><h1>Playground</h1>{}</main></body></html>"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page as a file, as it lies on a reader's disk."""
    path = tmp_path_factory.mktemp("page") / "playground.html"
    path.write_text(PAGE.format(playground.page()), "utf-8")
    return path.as_uri()


@pytest.fixture
def show(browser, address):
    """A function that opens the page and waits until it is alive."""
    contexts = []

    def opened(fragment="", *, before=None, **options):
        context = browser.new_context(**({"viewport": {"width": 390, "height": 800}} | options))
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.outside = [], []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
        page.on("request", lambda r: r.url.startswith("http") and page.outside.append(r.url))
        if before:
            page.add_init_script(before)
        page.goto(address + fragment)
        if options.get("java_script_enabled", True):
            page.wait_for_selector(".playground[data-alive]")
            page.wait_for_function("document.querySelector('[data-part=said]').textContent")
        return page

    yield opened
    for context in contexts:
        for page in context.pages:
            assert page.complaints == page.outside == []
        context.close()


def said(page, part="said"):
    return page.locator(f"[data-part={part}]").inner_text()


def test_it_makes_a_point_untouched_and_weighs_little(show):
    page = show()
    words = re.search(
        r"is an? (\d) for the dense network .* an? (\d) for the pruned one", said(page)
    )
    assert words[1] != words[2]
    assert "2,510 of 25,100 weights stay" in said(page)
    after = playground.cut("magnitude", 0.9)
    exact = float(training.evaluate(after, playground.images("test")))
    assert f"the pruned one {exact:.1f} %" in said(page)
    assert len(playground.page().encode()) < 400_000
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_slider_by_keyboard_and_the_address(show):
    page = show()
    slider = page.get_by_role("slider", name="How much is removed?")
    slider.press("End")
    page.wait_for_function(
        "document.querySelector('[data-part=said]').textContent.includes('Everything is removed')"
    )
    assert said(page, "tiles-said").startswith(
        "In the first layer 0 of 19,600 weights stay, in the second 0 of 5,000 weights, and in the "
        "last 0 of 500 weights. Of the 100 units of the first layer 100 are dead"
    )
    page.wait_for_function(
        "document.querySelector('[data-part=chart-said]').textContent.includes('No small dense')"
    )
    assert "No small dense network" in said(page, "bytes-said")
    page.get_by_label("random ones").check()
    page.get_by_label("whole hidden units").check()
    assert page.get_by_label("Erdős–Rényi shares").is_disabled()
    page.wait_for_url("**#criterion=random*structure=units*sparsity=1*")
    page.evaluate("location.hash = '#sparsity=0.5&criterion=best'")
    page.wait_for_function(
        "document.querySelector('[data-part=notice]').textContent.includes('criterion=best')"
    )
    assert slider.input_value() == "0.5" and slider.get_attribute("aria-valuetext") == "50.0 %"


def test_a_drawing_is_read_and_an_empty_pad_says_so(show):
    page = show()
    box = page.locator("[data-part=pad]").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 20, steps=5)
    page.mouse.up()
    page.wait_for_function(
        "document.querySelector('[data-part=said]').textContent.startsWith('Your drawing')"
    )
    assert "Your drawing is a 1 for the dense network" in said(page)
    page.get_by_role("button", name="Clear the pad").press("Enter")
    assert "The pad is empty" in said(page, "notice")
    page.get_by_label("Digit of the test image").select_option("8")
    page.wait_for_function(
        "document.querySelector('[data-part=said]').textContent.includes(', an 8,')"
    )


FAILING = {  # what the browser lacks -> what the page says
    "": "",
    "window.Worker = class { constructor() { throw new Error('none'); } };": "allows no thread",
    "window.Worker = class { postMessage() {} terminate() {} };": "does not answer",
    "window.Worker = class { postMessage() { setTimeout(() => this.onerror()); } terminate() {} };": "has failed",
}


def test_retraining_ends_alike_wherever_it_runs(show):
    curves = []
    for lacking, notice in FAILING.items():
        page = show(before=lacking, reduced_motion="reduce")
        if "does not" in notice:
            page.evaluate("playground.trainer.patience = 100")
        page.get_by_role("button", name="Retrain for one epoch").click()
        page.wait_for_function("playground.curve.length === 2")
        curves.append(page.evaluate("playground.curve"))
        assert page.evaluate("playground.trainer.alone") == bool(notice)
        assert notice in said(page, "notice") and bool(said(page, "notice")) == bool(notice)
    assert all(curve == curves[0] for curve in curves)
    assert curves[0][1] > curves[0][0] + 5
    assert f"{curves[0][1]:.1f} %" in said(page, "chart-said")


def test_moving_masks_keep_their_number(show):
    page = show("#criterion=random&sparsity=0.95")
    before = page.evaluate("playground.current.map(({ mask }) => mask.join(''))")
    page.get_by_role("button", name="while the mask moves").click()
    page.wait_for_function("playground.curve.length === 2")
    after = page.evaluate("playground.current.map(({ mask }) => mask.join(''))")
    assert [m.count("1") for m in after] == [m.count("1") for m in before]
    assert after[0] != before[0]


def test_two_networks_stand_side_by_side_and_the_removal_is_replayed(show):
    page = show(reduced_motion="reduce")
    table = page.locator("[data-part=probabilities]")
    page.get_by_role("button", name="Keep this network").click()
    assert "Kept: 90.0 % removed (the smallest, |w|; one ranking of all" in said(page, "kept-said")
    page.get_by_label("random ones").check()
    heads = [head.inner_text() for head in table.locator("thead th").all()]
    assert heads == ["digit", "dense", "pruned", "kept"]
    page.get_by_role("button", name="Put the kept one away").click()
    assert table.locator("thead th").count() == 3 and said(page, "kept-said") == ""
    seen = page.evaluate("""async () => {
        const [seen, paint] = [[], playground.paint];
        playground.paint = function (state = this.state, net) {
            seen.push(state.sparsity);
            return paint.call(this, ...arguments);
        };
        window.setTimeout = ((later) => (act) => later(act, 0))(window.setTimeout);
        await playground.replay();
        return [...seen, playground.state.sparsity];
    }""")
    assert seen == pytest.approx([0, 0.225, 0.45, 0.675, 0.9, 0.9])


def test_the_tour_says_what_the_page_shows(show):
    page = show(reduced_motion="reduce")
    items = page.locator(".tour > li")
    assert items.count() == 6
    shown = []
    for n, item in enumerate(items.all()):
        before = said(page)
        item.get_by_role("button", name="Set the page").click()
        page.wait_for_function(
            "before => document.querySelector('[data-part=said]').textContent !== before",
            arg=before,
        )
        right = float(re.search(r"the pruned one ([\d.]+) %", said(page))[1])
        shown.append(right)
        told = item.locator("p.right").text_content()
        numbers = [float(number) for number in re.findall(r"[\d.]+(?= %)", told)]
        if n not in (2, 4):  # one tells shares of layers, and one what retraining brings
            assert right == numbers[0], told
    stay = playground.figures()["stay"]
    assert stay[0] < stay[1] < stay[2]
    dense = float(re.search(r"dense network reads ([\d.]+) %", said(page))[1])
    assert dense - shown[0] < 1 < shown[0] - shown[3] and shown[1] < 0.7 * dense
    assert 0 <= dense - shown[5] < 5
    items.nth(4).get_by_role("button", name="Set the page").click()
    page.get_by_role("button", name="Retrain for one epoch").click()
    page.wait_for_function("playground.curve.length === 2")
    small = float(re.search(r"reads ([\d.]+) %", said(page, "chart-said"))[1])
    told = items.nth(4).inner_text()
    assert (
        f"reads {small:.1f} % right" in told and f"{playground.figures()['bytes']:,} bytes" in told
    )
    back = page.get_by_role("button", name="Back to the question")
    back.click()
    assert back.is_hidden()
    assert page.evaluate("document.activeElement.closest('li').innerText").startswith("Question 5")
    assert small < page.evaluate("playground.curve[1]") < dense


def test_the_file_is_downloaded_and_loaded(show, tmp_path):
    page = show("#sparsity=0.9&bits=4")
    page.wait_for_function("document.querySelector('[data-part=file]').href.startsWith('blob:')")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the file").click()
    download.value.save_as(tmp_path / "file")
    net = models.mlp(seed=5)
    coding.load(tmp_path / "file", net)
    expected = quantization.ptq(playground.cut("magnitude", 0.9), 4, per_channel=False)
    for found, wanted in zip(net.parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, wanted)
    size = (tmp_path / "file").stat().st_size
    words = said(page, "bytes-said")
    assert f"file has {size:,} bytes" in words and "101,040" in words
    fitting = [one for one in playground.opponents() if one["bytes"][4] <= size]
    assert f"4 bits per weight and {fitting[-1]['weights']:,} weights" in words
    assert f"{fitting[-1]['bytes'][4]:,} bytes and reads {fitting[-1]['right'][4]:.1f} %" in words
    assert f"The pruned one reads {playground.right(expected):.1f} %" in words


@pytest.mark.parametrize("preset", playground.PRESETS)
def test_a_lesson_links_to_its_state(show, preset):
    page = show(f"#{preset}")
    wanted = playground.START | playground.PRESETS[preset]["state"]
    state = page.evaluate("playground.state")
    assert {name: state[name] for name in wanted} == wanted
    assert said(page, "notice") == playground.PRESETS[preset]["question"]


def test_without_javascript_there_is_a_picture_and_a_table(show):
    page = show(java_script_enabled=False)
    assert page.locator(".live").is_hidden()
    assert page.get_by_role("img").get_attribute("alt").startswith("The first layer after 90 %")
    assert page.locator(".still tbody tr").count() == 6
    exact = float(training.evaluate(playground.cut("input", 0.8), playground.images("test")))
    row = page.locator(".still tbody tr", has_text="80 %")
    assert f"{exact:.1f} %" in row.locator("td").nth(2).inner_text()


def test_a_browser_that_is_too_old_keeps_the_picture_and_says_so(browser, address):
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(address)
    page.get_by_text("could not be started in this browser").wait_for()
    assert page.locator(".still table").is_visible() and page.locator(".live").is_hidden()
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(show, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = show()
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true })")
    found = axe.run(page).response["violations"]
    assert not found, json.dumps(found, indent=1)[:3000]
