// A product by repeated addition.
method Multiply(a: nat, b: int) returns (product: int)
  ensures product == a * b
{
  product := 0;
  var i := 0;
  while i < a
    invariant 0 <= i <= a
    invariant product == i * b
  {
    product := product + b;
    i := i + 1;
  }
}
