"""What an instructor may ask about each exercise: how long it takes, and what to talk about."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Notes:
    """Notes on one exercise.

    ``minutes`` is an estimate; nobody was timed. ``ask`` is a question for the class, and ``hear`` is
    what a good answer to it says.
    """

    minutes: int
    ask: str
    hear: str


NOTES = {
    "joules": Notes(
        10,
        "Why does the energy per image fall when more images pass together, and where does it stop?",
        "The weights are read once for all images, so their share shrinks with the number of images. "
        "The arithmetic is paid for every image, so the energy never falls below it.",
    ),
    "smallest_file": Notes(
        5,
        "On which files is the function right, although it rounds in the wrong place?",
        "On files with one layer, and on files in which every layer fills whole bytes.",
    ),
    "mended_file_bytes": Notes(
        5,
        "Could a real format want every layer to begin at a whole byte?",
        "Yes: then a layer can be read alone. The statement has to say it, because the two answers "
        "differ.",
    ),
    "low_rank_factors": Notes(
        10,
        "There are many pairs of factors with the same product. Which freedom is left?",
        "Any invertible matrix may stand between the two factors. The singular values may go to "
        "either side, or half to each.",
    ),
    "smallest_kernel": Notes(
        8,
        "Why did a test with as many outputs as inputs not notice the bug?",
        "The filters then fit along either axis, and no error shows that they lie along the wrong one.",
    ),
    "mended_full_kernel": Notes(
        7,
        "How many numbers has the full kernel, and how many have its two parts?",
        "n·m·k² against m·k² + n·m. The full kernel is a special one: most kernels have no such parts.",
    ),
    "magnitude_mask": Notes(
        12,
        "When does it matter which of two equal magnitudes stays?",
        "After an earlier cut many weights are exactly zero, and quantised weights have few values. "
        "Without a rule, the count is wrong or the mask changes from run to run.",
    ),
    "mask_goes_wrong": Notes(
        5,
        "How many weights are above the threshold in your input, and how many should be?",
        "All tied weights are at the threshold and none is above it, so all of them go.",
    ),
    "kills_wrong_masks": Notes(
        20,
        "How do you know that your test is good enough?",
        "It refuses functions that are each wrong in one way only, and it accepts right functions "
        "that are written differently. A test that refuses everything is no test.",
    ),
    "global_masks": Notes(
        15,
        "What would happen to a network if one layer lost all its weights?",
        "Nothing passes through this layer any more, so the output no longer depends on the input. "
        "Retraining cannot repair it, because no gradient passes either.",
    ),
    "smallest_masks": Notes(
        5,
        "For which networks is the mean of the layers' sparsities the sparsity of the network?",
        "Where all layers have equally many weights, or all have the same sparsity.",
    ),
    "mended_total_sparsity": Notes(
        5,
        "Which of the two numbers would you rather print in a paper, and why?",
        "The fraction of all weights, because bytes follow from it. The mean over layers gives a "
        "layer of ten weights the same say as one of a million.",
    ),
    "obd_cut": Notes(
        12,
        "OBD adds up the saliencies of all deleted weights. What does it leave out?",
        "The products of different weights: the entries of the Hessian off its diagonal.",
    ),
    "smallest_hessian": Notes(
        6,
        "On which Hessians do the two formulas agree?",
        "On diagonal ones. There, one over the diagonal is the diagonal of the inverse.",
    ),
    "mended_obs_saliency": Notes(
        6,
        "Can OBS's saliency be larger than OBD's?",
        "No. OBS lets the other weights move, so it finds a loss at least as low.",
    ),
    "prune_in_rounds": Notes(
        15,
        "Why are the removed weights set to zero a second time, after training?",
        "Momentum or a new gradient may have moved them. A mask that is not held is "
        "undone by the next step.",
    ),
    "smallest_next_round": Notes(
        7,
        "Why is the function right in a first round?",
        "No weight is dead yet, so the smallest of all weights are also the smallest of those alive.",
    ),
    "mended_next_round": Notes(
        8,
        "Three rounds each take 20 % of what is left. How much is gone?",
        "1 − 0.8³ = 48.8 %, and not 60 %.",
    ),
    "next_ticket": Notes(
        15,
        "Which tensor decides who stays, and which one says what the values are?",
        "The trained magnitudes decide. The values are those of the initialisation.",
    ),
    "smallest_ticket": Notes(
        6,
        "What does the function do when nothing should go?",
        "It still compares with “above”, so the weight at the cut goes as well.",
    ),
    "kills_wrong_tickets": Notes(
        20,
        "Why should a test of a pruning loop begin in the second round?",
        "In the first round all weights are alive. Mistakes that revive or recount dead ones cannot "
        "show there.",
    ),
    "set_step": Notes(
        15,
        "Why may a weight that has just been dropped grow again?",
        "The method draws from all free positions. The weight comes back with the value zero, so it "
        "has to prove itself again.",
    ),
    "smallest_drop": Notes(
        5,
        "A thousand weights, 200 to drop, and 900 go. What did the author have in mind?",
        "The negative weights to drop are the last ones below zero. The slice begins at the front of "
        "the order and runs to its end, so it takes the positive ones as well.",
    ),
    "mended_drop": Notes(
        10,
        "Why does SET treat positive and negative weights apart?",
        "So that neither sign loses all its weights only because they are smaller.",
    ),
    "cut_channels": Notes(
        12,
        "Which tensors change if channel 3 of a layer goes?",
        "Its filter, its bias, the statistics of its normalisation, and the columns that read it in "
        "the next layer.",
    ),
    "smallest_removal": Notes(
        7,
        "Why does the function work for one dead channel?",
        "After the first removal the numbers of the later channels shift; with one channel there is "
        "no later one.",
    ),
    "kills_wrong_removals": Notes(
        20,
        "How can a test tell whether a network computes the same?",
        "It compares outputs on random inputs with those of the network whose dead channels are zero, "
        "and it also compares shapes, dtypes and the given tensors.",
    ),
    "active_fraction": Notes(
        8,
        "Does a channel that is almost always zero have to be unimportant?",
        "No. It may fire exactly on the images for which it matters.",
    ),
    "smallest_taylor": Notes(
        6,
        "When does it matter whether the absolute value comes before or after the mean?",
        "As soon as two terms have different signs: they cancel in the mean, but not after the "
        "absolute value.",
    ),
    "mended_taylor": Notes(
        6,
        "What does the criterion estimate?",
        "The first-order change of the loss if the channel's output were zero.",
    ),
    "learn_and_compress": Notes(
        20,
        "What do the multipliers add to a penalty that pulls w towards θ?",
        "They let w and θ meet at a finite μ. Without them, the distance only vanishes as μ grows "
        "without bound.",
    ),
    "smallest_l1_ball": Notes(
        8,
        "How many entries stay positive in the projection, and how do you find out?",
        "As many as are above their own level. One sorts, and takes the last such level.",
    ),
    "mended_l1_ball": Notes(
        10,
        "Why does this projection make zeros, and that onto a ball of the 2-norm none?",
        "The corners of the first ball lie on the axes. The second one only shortens the vector.",
    ),
    "noisy_outputs": Notes(
        10,
        "Why is the noise drawn for the outputs and not for the weights?",
        "The outputs have the same distribution for one example, each example has noise of its own, "
        "and the gradient varies less.",
    ),
    "smallest_noisy_conv": Notes(
        7,
        "Why does the bias not enter the variance?",
        "It is a fixed number. It moves the mean, and a constant has no variance.",
    ),
    "mended_noisy_conv": Notes(
        7,
        "Which weights would you remove from a layer with learnt noise?",
        "Those whose noise is much larger than their mean: the network has learnt to do without them.",
    ),
    "relative_entries": Notes(
        12,
        "Why are few bits for the zeros not always the best choice?",
        "Short gaps become cheaper, but each long gap costs fillers, and a filler takes a value as "
        "well.",
    ),
    "smallest_gradient": Notes(
        6,
        "On which clusters is the function right?",
        "On those with exactly one weight.",
    ),
    "mended_gradient": Notes(
        8,
        "Why is the gradient of a shared value a sum and not a mean?",
        "The loss depends on the value through every weight that uses it, and the chain rule adds up "
        "the paths.",
    ),
    "round_rows": Notes(
        10,
        "What does one step per row gain over one step for the whole layer?",
        "A row of small weights keeps a fine grid, although another row has a large weight.",
    ),
    "smallest_binary": Notes(
        5,
        "Which scale minimises the squared error, and which one keeps the norm?",
        "The mean of the magnitudes minimises the error; the root of the mean square keeps the norm.",
    ),
    "kills_wrong_binaries": Notes(
        20,
        "Which weights make two different scales equal, and so hide a bug?",
        "Weights of one magnitude, and single weights: there all such means agree.",
    ),
    "soft_gradient": Notes(
        10,
        "What does the factor T² do?",
        "Without it, the gradient shrinks as one over T², and the soft targets lose their weight "
        "against the labels when T grows.",
    ),
    "smallest_loss": Notes(
        6,
        "At which temperature do the two formulas agree, and why does that hide the bug?",
        "At 1, which is the value that most tests use.",
    ),
    "mended_loss": Notes(
        8,
        "Why is the loss computed from logits and not from probabilities?",
        "The logarithm of a probability that has become 0 is infinite. `log_softmax` never goes there.",
    ),
    "conv_bn_relu": Notes(
        12,
        "At inference, can the batch norm be left out?",
        "It can be folded into the convolution: a factor and a shift per filter. It cannot be left "
        "out without that.",
    ),
    "inception_block": Notes(
        15,
        "Why does the order of the branches matter?",
        "The next layer reads channels by position. In another order, it reads the wrong ones, and no "
        "shape shows it.",
    ),
    "block_cost": Notes(
        12,
        "Why does a convolution of one place stand before those of three and five?",
        "It makes their input narrow, and their cost grows with the number of channels they read.",
    ),
    "readers": Notes(
        15,
        "Which layers change if one filter inside a branch goes?",
        "Its own layer, its batch norm and everything that reads it, at a position that depends on "
        "the branches before it.",
    ),
    "choose": Notes(
        10,
        "Why does every layer keep one channel?",
        "A layer without channels cuts its branch, and the next layer would read nothing.",
    ),
    "refit": Notes(
        12,
        "Why can least squares repair a layer without labels and without a gradient step?",
        "It only asks that the layer gives what it gave before, from the inputs that are left.",
    ),
    "fine_tune": Notes(
        15,
        "How would you know that the repair helped, and not only the training?",
        "By a control: the same training from the cut network without the repair.",
    ),
    "report_card": Notes(
        12,
        "When may one say that a network is faster?",
        "When the quartiles of the two timings do not overlap, on this machine and for this batch.",
    ),
    "verdict": Notes(
        12,
        "A wide interval lies around 0. Are the two networks equally good?",
        "Nobody knows yet. “Equal” needs an interval that lies within a margin named beforehand.",
    ),
    "chain_bytes": Notes(
        10,
        "Why does a layer of few bits not shrink in proportion to its bits?",
        "Scales and biases keep their bytes, and every layer is rounded up to a whole byte.",
    ),
    "smallest_survivors": Notes(
        6,
        "When does the function choose the right children all the same?",
        "When the best children are all among those that were mutated.",
    ),
    "mended_survivors": Notes(
        6,
        "How would you notice in a running search that crossing never contributes?",
        "By counting where the survivors come from. A curve of the best score does not show it.",
    ),
    "policy_gradient": Notes(
        15,
        "Why is a draw compared with the other draws, and not with the mean of all?",
        "The mean of all holds the draw's own reward, and so the estimate would be too small.",
    ),
    "smallest_reward": Notes(
        6,
        "Which unit has the drop, and which one the bound?",
        "One is a fraction and the other is in points, so the drop hardly counts.",
    ),
    "mended_rewards": Notes(
        8,
        "How could a test on a real network have found the mistake?",
        "A set that ruins the accuracy should have a low reward. With the mistake it has a high one.",
    ),
    "wanda_mask": Notes(
        12,
        "If one input is a hundred times as large and its weights a hundredth, what changes?",
        "Nothing in the layer's output and nothing in Wanda's score. A rank by size alone would remove "
        "exactly these weights.",
    ),
    "smallest_pattern": Notes(
        5,
        "Why did nobody notice that the wrong number was counted?",
        "The program offers 2:4 and 4:8 alone. There, as many weights stay as go.",
    ),
    "mended_pattern": Notes(
        8,
        "Which tests would have found it, and which groups must a test have?",
        "Count what stays in a pattern like 1:4. The groups should be of more than one row, with ties, "
        "so that a wrong axis and a threshold show too.",
    ),
}
