"""Peak rates of GPUs, to which the rate of a training is compared."""

# dense bfloat16 FLOP/s by Ray's names of accelerators, from the data sheets; of several forms the fastest (SXM)
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "L4": 121e12, "L40S": 362e12}
