package resp

// split cuts an inline request into arguments as Redis' sdssplitargs does: words are separated by white space;
// "..." understands \xHH \n \r \t \b \a and \<any>; '...' understands \'; a closing quote must be followed by white
// space or the end. It fills words and spans and reports false if the quotes are unbalanced.
func (p *Parser) split(line []byte) bool {
	p.words = p.words[:0]
	for i := 0; ; {
		for i < len(line) && isSpace(line[i]) {
			i++
		}
		if i == len(line) || line[i] == 0 { // a NUL ends a C string, hence the line
			return true
		}
		from := len(p.words)
		next, ok := p.word(line, i)
		if !ok {
			return false
		}
		p.spans = append(p.spans, span{from, len(p.words)})
		i = next
	}
}

// word decodes the word at i and returns the place behind it.
func (p *Parser) word(line []byte, i int) (int, bool) {
	for i < len(line) && line[i] != 0 && !isSpace(line[i]) {
		c := line[i]
		i++
		if c != '"' && c != '\'' {
			p.words = append(p.words, c)
			continue
		}
		var ok bool
		if i, ok = p.quoted(line, i, c); !ok {
			return 0, false
		}
		return i, i == len(line) || line[i] == 0 || isSpace(line[i])
	}
	return i, true
}

// quoted decodes up to and including the closing quote and returns the place behind it.
func (p *Parser) quoted(line []byte, i int, quote byte) (int, bool) {
	for i < len(line) && line[i] != 0 {
		c := line[i]
		switch {
		case c == quote:
			return i + 1, true
		case quote == '"' && c == '\\' && i+3 < len(line) && line[i+1] == 'x' && hex(line[i+2]) >= 0 && hex(line[i+3]) >= 0:
			p.words = append(p.words, byte(hex(line[i+2])<<4|hex(line[i+3])))
			i += 4
		case quote == '"' && c == '\\' && i+1 < len(line):
			p.words = append(p.words, unescape(line[i+1]))
			i += 2
		case quote == '\'' && c == '\\' && i+1 < len(line) && line[i+1] == '\'':
			p.words = append(p.words, '\'')
			i += 2
		default:
			p.words = append(p.words, c)
			i++
		}
	}
	return 0, false
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case 'a':
		return '\a'
	}
	return c
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
