// What two sets share and what they do not make up their union.
lemma PartsOfUnion<T>(a: set<T>, b: set<T>)
  ensures a + b == (a - b) + (b - a) + (a * b)
{
  assert a + b == (a - b) + (b - a) + (a * b);
}
