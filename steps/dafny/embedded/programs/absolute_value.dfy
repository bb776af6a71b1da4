// The distance of a number from zero.
method Abs(x: int) returns (distance: nat)
  ensures distance == x || distance == -x
{
  if x < 0 {
    distance := -x;
  } else {
    distance := x;
  }
  assert distance >= 0;
}
