package simfs

// content is the bytes of a file, in sectors. Copies share sectors until one of them changes; those that hold only zeros take
// no memory.
type content struct {
	sectors []sector
	size    int64
	self    *owner
}

// sector is a part of a content. bytes nil stands for zeros. Only the content that owns the bytes may change them.
type sector struct {
	bytes *[SectorSize]byte
	owner *owner
}

// owner tells contents apart: each has its own, and gets another one when its sectors are shared.
type owner struct{ _ byte }

// share returns a copy. From now on neither of the two changes what they have in common.
func (c *content) share() content {
	c.self = new(owner)
	return content{sectors: append([]sector(nil), c.sectors...), size: c.size, self: new(owner)}
}

// extend makes the content longer, by zeros.
func (c *content) extend(size int64) {
	if size <= c.size {
		return
	}
	c.size = size
	if n := int((size + SectorSize - 1) / SectorSize); n > len(c.sectors) {
		if n <= cap(c.sectors) {
			c.sectors = c.sectors[:n]
		} else {
			c.sectors = append(make([]sector, 0, n), c.sectors...)[:n]
		}
	}
}

// shrink forgets what lies from size on.
func (c *content) shrink(size int64) {
	if size >= c.size {
		return
	}
	n := int((size + SectorSize - 1) / SectorSize)
	clear(c.sectors[n:])
	c.sectors, c.size = c.sectors[:n], size
	if rest := size % SectorSize; rest > 0 && c.sectors[n-1].bytes != nil {
		clear(c.own(n - 1)[rest:])
	}
}

// own returns a sector for a change.
func (c *content) own(i int) *[SectorSize]byte {
	s := &c.sectors[i]
	switch {
	case s.bytes == nil:
		s.bytes = new([SectorSize]byte)
	case s.owner != c.self:
		copied := *s.bytes
		s.bytes = &copied
	}
	s.owner = c.self
	return s.bytes
}

// read fills p with what stands at offset at; it must lie within the content.
func (c *content) read(p []byte, at int64) {
	for len(p) > 0 {
		skip := int(at % SectorSize)
		n := min(len(p), SectorSize-skip)
		if bytes := c.sectors[at/SectorSize].bytes; bytes != nil {
			copy(p[:n], bytes[skip:])
		} else {
			clear(p[:n])
		}
		p, at = p[n:], at+int64(n)
	}
}

// put writes p at offset at; it must lie within the content.
func (c *content) put(p []byte, at int64) {
	for len(p) > 0 {
		skip := int(at % SectorSize)
		n := min(len(p), SectorSize-skip)
		copy(c.own(int(at / SectorSize))[skip:], p[:n])
		p, at = p[n:], at+int64(n)
	}
}

// zero writes zeros from offset at to end, within the content.
func (c *content) zero(at, end int64) {
	for at < end {
		skip := at % SectorSize
		n := min(end-at, SectorSize-skip)
		switch i := int(at / SectorSize); {
		case c.sectors[i].bytes == nil:
		case n == SectorSize:
			c.sectors[i] = sector{}
		default:
			clear(c.own(i)[skip : skip+n])
		}
		at += n
	}
}

// apply carries out a write.
func (c *content) apply(w write) {
	c.extend(w.size)
	c.put(w.bytes, w.at)
	c.zero(w.at+int64(len(w.bytes)), w.at+w.length)
}

// all returns the bytes.
func (c *content) all() []byte {
	b := make([]byte, c.size)
	c.read(b, 0)
	return b
}

// contentOf returns b as a content.
func contentOf(b []byte) content {
	c := content{self: new(owner)}
	c.extend(int64(len(b)))
	c.put(b, 0)
	return c
}
