// A rectangle and its area, as a class.
class Rectangle {
  var width: nat
  var height: nat

  constructor(w: nat, h: nat)
    ensures width == w && height == h
  {
    width := w;
    height := h;
  }

  function Area(): nat
    reads this
  {
    width * height
  }

  method Widen(more: nat)
    modifies this
    ensures Area() == old(Area()) + more * height
  {
    width := width + more;
    assert width == old(width) + more;
  }
}
