"""The words of a report, explained for someone who has never seen one."""

GLOSSARY = (
    (
        "multiply-adds (MACs)",
        "Multiplications, each with its addition, that one input takes through the network.",
    ),
    (
        "channel",
        "One coordinate of a layer's output: a channel of a convolution, a feature of a linear layer.",
    ),
    ("unit", "Channels that can only stay or leave together, because some operation ties them."),
    (
        "group",
        "All units that share one choice, with every slice of every tensor that depends on it.",
    ),
    (
        "kept",
        "What stays. Every fraction on this page speaks of what stays, none of what was taken away.",
    ),
    ("dense network", "The network as it was given, before anything was cut."),
    (
        "budget",
        "The most that the result may cost, in multiply-adds, parameters, bytes or milliseconds.",
    ),
    (
        "path",
        "The order in which the units of a group were picked, best first, with the error at every size.",
    ),
    (
        "error of a group",
        "The share of what the following layers compute that is lost with the units kept, after those layers "
        "were fitted anew: 1 means all of it, 0 none.",
    ),
    (
        "lower bound",
        "No choice of that many units, however clever, has an error below it. A curve near its bound cannot be "
        "improved much.",
    ),
    (
        "predicted harm",
        "How much the output of the whole network is expected to change, from measured sensitivities.",
    ),
    (
        "agreement",
        "The share of inputs on which the cut network makes the same first choice as the dense one.",
    ),
    ("KL", "How far the predicted probabilities moved, in nats; 0 means not at all."),
    ("plan", "What stays, per group, as data. Its hash changes with any change of it."),
    (
        "certificate",
        "Claims about the result, each with its number, what it is held to, and how it was checked.",
    ),
    ("spread", "The range in which repeated latency measurements lay."),
)
