"""What a step lowers; each loss is a small function that composes with the others, any network and any precision.

| loss | module | what it asks for |
|---|---|---|
| classification | `classification` | the labels, smoothed on request, and the twin's answers |
| saliency-guided | `saliency_guided` | the same answer without the least salient pixels (2111.14338, 2411.05858) |
| interpretable gradient | `interpretable_gradient` | an input gradient like the guided one (2404.15024) |

The last two ask the network as it will be used: `bitlens.train.evaluation_mode`.

`bitlens.train.fit` adds them up; `bitlens.train.objective_measures` measures, on held-out images, what they ask for.
"""
