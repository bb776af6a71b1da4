// The largest integer whose square is not above n.
method Root(n: nat) returns (root: nat)
  ensures root * root <= n < (root + 1) * (root + 1)
{
  root := 0;
  while (root + 1) * (root + 1) <= n
    invariant root * root <= n
  {
    root := root + 1;
  }
}
