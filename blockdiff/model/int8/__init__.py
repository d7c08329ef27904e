"""int8 on a CPU: packed weights and the library that multiplies them."""
