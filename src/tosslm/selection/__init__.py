"""Which tokens are left out: pure functions on arrays, which import neither torch nor another room of ours."""
