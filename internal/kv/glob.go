package kv

// globMatch reports whether text matches a glob pattern as Redis' stringmatchlen defines it: * ? [a-z] [^a] \x.
func globMatch(pattern, text string) bool {
	var stop bool
	return globFrom(pattern, text, &stop, 0)
}

// maxGlobDepth bounds the recursion, one level for each '*'; Redis has the same bound.
const maxGlobDepth = 1000

// globFrom matches the rest of a pattern. stop becomes true when a '*' has tried every rest of the text in vain: then
// no '*' further left can help, which keeps patterns such as a*a*a*a*b from taking exponential time.
func globFrom(p, s string, stop *bool, depth int) bool {
	if depth > maxGlobDepth {
		return false
	}
	for len(p) > 0 && len(s) > 0 {
		switch p[0] {
		case '*':
			return globStar(p, s, stop, depth)
		case '?':
			s = s[1:]
		case '[':
			var match bool
			if match, p = globClass(p[1:], s[0]); !match {
				return false
			}
			s = s[1:]
		default:
			if p[0] == '\\' && len(p) >= 2 {
				p = p[1:]
			}
			if p[0] != s[0] {
				return false
			}
			s = s[1:]
		}
		if p = p[1:]; len(s) == 0 {
			for len(p) > 0 && p[0] == '*' {
				p = p[1:]
			}
			break
		}
	}
	return len(p) == 0 && len(s) == 0
}

func globStar(p, s string, stop *bool, depth int) bool {
	for len(p) > 1 && p[1] == '*' {
		p = p[1:]
	}
	if len(p) == 1 {
		return true
	}
	for len(s) > 0 {
		if globFrom(p[1:], s, stop, depth+1) {
			return true
		}
		if *stop {
			return false
		}
		s = s[1:]
	}
	*stop = true
	return false
}

// globClass matches c against the class that p stands in, behind its '['. It returns p at the last byte of the
// class, or one before the end of a pattern that does not close it.
func globClass(p string, c byte) (bool, string) {
	invert := len(p) > 0 && p[0] == '^'
	if invert {
		p = p[1:]
	}
	match := false
	for {
		switch {
		case len(p) >= 2 && p[0] == '\\':
			p = p[1:]
			match = match || p[0] == c
		case len(p) > 0 && p[0] == ']':
			return match != invert, p
		case len(p) == 0:
			return match != invert, "]" // as if closed
		case len(p) >= 3 && p[1] == '-':
			low, high := min(p[0], p[2]), max(p[0], p[2])
			p = p[2:]
			match = match || low <= c && c <= high
		default:
			match = match || p[0] == c
		}
		p = p[1:]
	}
}
