// Inclusive ranges of rows. `zero` is the valid empty range of `limit=0`.

export const ALL = { lower: 0, upper: Infinity };
export const none = { lower: Infinity, upper: -Infinity };
export const zero = { lower: 0, upper: -1 };

export const beyond = (lower) => ({ lower, upper: Infinity });
export const upTo = (upper) => ({ lower: -Infinity, upper });
export const isNone = ({ lower, upper }) => lower > upper;
export const isZero = ({ upper }) => upper === -1;
export const meeting = (one, other) => ({
  lower: Math.max(one.lower, other.lower),
  upper: Math.min(one.upper, other.upper),
});

// Limit a range to a maximum number of rows.
export const bounded = (range, rows) =>
  isZero(range) ? zero : meeting(range, upTo(range.lower + rows - 1));
