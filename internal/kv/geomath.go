package kv

import "math"

// Sine, cosine and arc sine, computed with twice the precision of a float64 and rounded once. The functions of package
// math differ in the last bit between processors (and from the C library of redis-server), and a distance may be
// stored: replicas must not disagree.

// pair is the unevaluated sum of two numbers: low is at most half a unit in the last place of high.
type pair struct{ high, low float64 }

// pairSum returns a+b exactly.
func pairSum(a, b float64) pair {
	s := a + b
	t := s - a
	return pair{s, (a - (s - t)) + (b - t)}
}

func (p pair) add(q pair) pair {
	s := pairSum(p.high, q.high)
	return pairSum(s.high, s.low+(p.low+q.low))
}

func (p pair) negative() pair { return pair{-p.high, -p.low} }

func (p pair) times(q pair) pair {
	high := float64(p.high * q.high)
	low := math.FMA(p.high, q.high, -high)
	low += float64(p.high*q.low) + float64(p.low*q.high)
	return pairSum(high, low)
}

func (p pair) over(f float64) pair {
	high := p.high / f
	rest := math.FMA(-high, f, p.high)
	return pairSum(high, (rest+p.low)/f)
}

// halfPi is pi/2.
var halfPi = pair{1.5707963267948966, 6.123233995736766e-17}

// trigTerms is the number of terms of a series, enough for pi/4 and twice the precision.
const trigTerms = 15

// series returns the sum of x^n/n! with alternating signs, for n = first, first+2, ...
func series(x pair, first int) pair {
	square := x.times(x).negative()
	term := pair{1, 0}
	if first == 1 {
		term = x
	}
	sum := term
	for i := range trigTerms {
		n := float64(first + 2*i)
		term = term.times(square).over((n + 1) * (n + 2))
		sum = sum.add(term)
	}
	return sum
}

// sinCos returns sine and cosine of x, |x| below some hundred.
func sinCos(x pair) (sin, cos pair) {
	turns := math.Round(x.high / halfPi.high)
	rest := x.add(halfPi.times(pair{-turns, 0}))
	s, c := series(rest, 1), series(rest, 0)
	switch int(turns) & 3 {
	case 1:
		return c, s.negative()
	case 2:
		return s.negative(), c.negative()
	case 3:
		return c.negative(), s
	}
	return s, c
}

func sine(x float64) float64 {
	s, _ := sinCos(pair{x, 0})
	return s.high
}

func cosine(x float64) float64 {
	_, c := sinCos(pair{x, 0})
	return c.high
}

// arcSine returns the angle in 0..pi/2 whose sine is x, 0 <= x <= 1: one step of Newton's method from a start that is good to
// about 40 bits, and another one.
func arcSine(x float64) float64 {
	if x >= 1 {
		return halfPi.high
	}
	angle := pair{math.Asin(x), 0}
	for range 2 {
		s, c := sinCos(angle)
		if c.high == 0 {
			break
		}
		difference := pair{x, 0}.add(s.negative())
		angle = angle.add(difference.over(c.high))
	}
	return angle.high
}
