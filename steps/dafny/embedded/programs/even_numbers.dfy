// A number is even or its successor is.
predicate Even(n: nat) {
  n % 2 == 0
}

lemma OneOfTwo(n: nat)
  ensures Even(n) || Even(n + 1)
{
  assert n % 2 == 0 || (n + 1) % 2 == 0;
}
