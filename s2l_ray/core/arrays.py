"""Array types used in signatures. Shape suffixes of names: B batch, L length, V vocabulary, N examples, T checkpoints,
K clusters, M selected."""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]
UInt64 = NDArray[np.uint64]
Integers = NDArray[np.integer]
Bool = NDArray[np.bool_]
Objects = NDArray[np.object_]
