// Two accounts and a transfer between them in small steps.
class Account {
  var balance: nat

  constructor(start: nat)
    ensures balance == start
  {
    balance := start;
  }
}

method Transfer(from: Account, to: Account, amount: nat)
  requires from != to && amount <= from.balance
  modifies from, to
  ensures from.balance == old(from.balance) - amount
  ensures to.balance == old(to.balance) + amount
{
  var moved := 0;
  while moved < amount
    invariant 0 <= moved <= amount
    invariant from.balance == old(from.balance) - moved
    invariant to.balance == old(to.balance) + moved
  {
    from.balance := from.balance - 1;
    to.balance := to.balance + 1;
    moved := moved + 1;
  }
}
