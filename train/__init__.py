"""Training: low-bit networks and their full-precision twins, with torch and Brevitas.

| noun | module | what it is |
|---|---|---|
| precision | `precision` | the word `w2a4` and what it means layer by layer |
| quantizer | `quantizers` | sign, ternary and integer weights; sign and PACT activations |
| model | `models` | networks by name, and how one starts from its twin |
| data set | `datasets` | images by name or folder, the fixed split, the augmentation |
| fit | `fit` | the training loop and the accuracy |
| objective | `losses` | classification, saliency-guided training, interpretable gradients |
| measure | `objective_measures` | what these objectives ask for, on held-out images |
| evaluation mode | `evaluation_mode` | the trained network, asked for in the middle of training |
| processes | `processes`, `batch_norm` | several of them train as one |
| checkpoint | `checkpoint` | what a fit goes on from |
| unfinished run | `unfinished_run` | the folder `checkpoint` of a run that is being made |
| watch | `watch` | maps of a few held-out images after every epoch, on a page |
| run | `run_folder` | one folder with configuration, weights and metrics |
| recipe | `recipe`, `recipes` | the options behind a published figure, one file each |
| verb | `verb` | `bitlens train` |

Nothing is imported here, so that the command line can list its verbs without waiting for torch.
"""
