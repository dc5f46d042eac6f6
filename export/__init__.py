"""Export: a trained network becomes a program, and the program becomes files for every engine.

| noun | module | what it is |
|---|---|---|
| QONNX | `qonnx` | a Brevitas model in the interchange form, float64 |
| hand-over | `hand_over` | what a training run leaves for export |
| lowering | `lowering` | QONNX -> program: thresholds, masks, slopes |
| affine form | `affine_form` | thresholds as divide, add, round, clip, proved equal |
| ONNX cells | `onnx_rules` | how each op of a program is written in ONNX |
| ONNX graph | `onnx_graph`, `onnx_writer` | the file under construction, and the whole of it |
| bundle | `bundle` | everything a board needs, in one file |
| verb | `verb` | `bitlens export` |
"""
