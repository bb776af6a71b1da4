// A stack of bounded height in an array, and a loop that fills it.
class Stack {
  const items: array<int>
  var height: nat

  ghost predicate Valid()
    reads this
  {
    height <= items.Length
  }

  constructor(capacity: nat)
    ensures Valid() && height == 0 && items.Length == capacity && fresh(items)
  {
    items := new int[capacity];
    height := 0;
  }

  method Push(x: int)
    requires Valid() && height < items.Length
    modifies this, items
    ensures Valid() && height == old(height) + 1
    ensures items[height - 1] == x
  {
    items[height] := x;
    height := height + 1;
  }

  method Fill(x: int)
    requires Valid()
    modifies this, items
    ensures Valid() && height == items.Length
  {
    while height < items.Length
      invariant Valid()
    {
      Push(x);
    }
  }
}
