// A light that goes round in three steps.
datatype Light = Red | Green | Yellow

function Next(l: Light): Light {
  match l
  case Red => Green
  case Green => Yellow
  case Yellow => Red
}

lemma Round(l: Light)
  ensures Next(Next(Next(l))) == l
{
  assert l.Red? || l.Green? || l.Yellow?;
}
