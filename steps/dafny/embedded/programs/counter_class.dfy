// A counter that is raised step by step; only itself changes.
class Counter {
  var value: int

  constructor()
    ensures value == 0
  {
    value := 0;
  }

  method Increment()
    modifies this
    ensures value == old(value) + 1
  {
    value := value + 1;
  }

  method Add(amount: nat)
    modifies this
    ensures value == old(value) + amount
  {
    var done := 0;
    while done < amount
      invariant 0 <= done <= amount
      invariant value == old(value) + done
    {
      Increment();
      done := done + 1;
    }
  }
}
