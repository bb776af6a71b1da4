// A function whose arguments grow before they shrink: the order of pairs proves that it ends.
function Ackermann(m: nat, n: nat): nat
  decreases m, n
{
  if m == 0 then n + 1
  else if n == 0 then Ackermann(m - 1, 1)
  else Ackermann(m - 1, Ackermann(m, n - 1))
}

method Descend(limit: nat) returns (steps: nat)
  ensures steps == limit
{
  steps := 0;
  var up, down := 0, limit;
  while up != limit
    invariant up + down == limit && steps == up
    invariant down >= 0
    decreases down
  {
    up, down, steps := up + 1, down - 1, steps + 1;
  }
}
