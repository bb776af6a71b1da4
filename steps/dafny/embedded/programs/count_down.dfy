// Two counters that move towards each other keep their sum.
method Transfer(amount: nat, start: int) returns (left: nat, right: int)
  ensures left == 0
  ensures right == start + amount
{
  left := amount;
  right := start;
  while left > 0
    invariant left + right == start + amount
  {
    left := left - 1;
    right := right + 1;
  }
}
