"""Runtime: run, differentiate and explain a program, with NumPy alone.

| noun | module | what it is |
|---|---|---|
| program | `program`, `program_file`, `type_check` | a network as integer ops, its file, its check |
| op | `ops` | the table: type rule, NumPy meaning, gradient rule |
| table | `table` | what is chosen by name: how a row is added, how it is found |
| threshold | `thresholds` | where a quantizer's codes and masks begin, in float64 |
| gradient program | `autodiff` | the program that computes the gradient |
| network | `network`, `golden`, `array_file` | what export wrote, and its golden answers |
| file | `bounded_file`, `atomic_file` | read within a limit, written whole or not at all |
| bundle | `bundle_file`, `trust` | the one file it is written to, and which of them may be parsed |
| cost | `layer_cost` | bits, bytes and operations of each layer |
| files | `onnx_summary`, `tflite_summary`, `flatbuffer`, `tflite_schema` | what is in an ONNX or a TFLite file |
| engine | `engines` | native, onnxruntime, tflite, reference |
| subject | `subject` | one image, as the network sees it, and one class |
| method | `methods` | the explanation methods; `noise`, `bilinear`, `gaussian` serve them |
| fidelity | `fidelity` | how close one map is to another: Spearman, Pearson, SSIM, top-k IoU, signs |
| faithfulness | `faithfulness` | does the network agree with a map, and is the map calm? |
| random weights | `random_weights` | the twin that has learned nothing |
| bootstrap | `bootstrap` | the interval of a mean over images |
| evaluation | `evaluation` | fidelity and faithfulness over many images, in chunks |
| parity | `parity` | does an engine compute the program? |
| bench | `bench` | how long does it take here, and how much memory? |
| board | `machine`, `board_state`, `equipment` | what is this machine, how is it doing, what has it? |
| image | `image`, `resize`, `picture_file` | any picture, as the network was trained to see it |
| picture, page | `pictures`, `lettering`, `page` | what a person looks at |
| chart | `line_chart`, `interval_chart`, `svg_figure` | numbers as pictures on a page |
| verb | `verbs`, `cli` | the command line |

>>> from bitlens.runtime import METHODS
>>> [name for name, method in METHODS.items() if not method.needs_gradient]
['finite_differences', 'occlusion', 'rise']
"""

from bitlens.runtime.engines import ENGINES, Engine, open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.methods import METHODS
from bitlens.runtime.network import Network, open_network
from bitlens.runtime.program import Program
from bitlens.runtime.program_file import read_program, write_program

__all__ = [
    "ENGINES",
    "METHODS",
    "BitlensError",
    "Engine",
    "Network",
    "Program",
    "open_engine",
    "open_network",
    "read_program",
    "write_program",
]
