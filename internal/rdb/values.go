package rdb

// Types of values, as far as their shape is concerned.
const (
	typeString       = 0
	typeList         = 1
	typeSet          = 2
	typeZsetText     = 3
	typeHash         = 4
	typeZset         = 5
	typeModule2      = 7
	typeZipmap       = 9
	typeZsetZiplist  = 12
	typeHashZiplist  = 13
	typeQuicklist    = 14
	typeStream1      = 15
	typeHashListpack = 16
	typeZsetListpack = 17
	typeQuicklist2   = 18
	typeStream2      = 19
	typeSetListpack  = 20
	typeStream3      = 21
	typeHashFields   = 24 // fields that expire
	typeHashFieldsLP = 25
)

// value reads over the value of a key; what is kept of it is the caller's affair. refused says why the group cannot hold it.
func (r *Reader) value(kind byte) (refused string, err error) {
	switch kind {
	case typeString, typeZipmap, typeZipmap + 1, typeZipmap + 2, typeZsetZiplist, typeHashZiplist, typeHashListpack, typeZsetListpack, typeSetListpack:
		return "", r.skipText()
	case typeList, typeSet, typeQuicklist:
		return "", r.each(r.skipText)
	case typeHash:
		return "", r.each(r.skipText, r.skipText)
	case typeZsetText:
		return "", r.each(r.skipText, r.skipScore)
	case typeZset:
		return "", r.each(r.skipText, r.bytes(8))
	case typeQuicklist2:
		return "", r.each(r.skipLength, r.skipText)
	case typeStream1, typeStream2, typeStream3:
		return "", r.stream(kind)
	case typeModule2:
		return "it belongs to a module of Redis, and there are none here", r.steps(r.skipLength, r.moduleParts)
	case typeHashFields:
		return hasExpiringFields, r.steps(r.bytes(8), func() error { return r.each(r.skipLength, r.skipText, r.skipText) })
	case typeHashFieldsLP:
		return hasExpiringFields, r.steps(r.bytes(8), r.skipText)
	}
	return "", r.damaged("values of type %d are not known: where this one ends cannot be told", kind)
}

const hasExpiringFields = "it is a hash with fields that expire, which Redis has from 7.4 on"

func (r *Reader) steps(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// each does the steps as often as the length says that comes first.
func (r *Reader) each(steps ...func() error) error {
	n, err := r.length()
	if err != nil {
		return err
	}
	for ; n > 0; n-- { // every step reads a byte at least: a count that lies comes to the end of the file
		if err := r.steps(steps...); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) bytes(n uint64) func() error { return func() error { return r.skip(n) } }

func (r *Reader) skipLength() error { return r.lengths(1) }

// skipScore reads over a score in text: a byte of length, of which three stand for NaN and the infinities.
func (r *Reader) skipScore() error {
	n, err := r.byte()
	if err != nil || n >= 253 {
		return err
	}
	return r.skip(uint64(n))
}

// stream reads over a stream: its nodes, what it knows of itself, its groups with their pending entries and consumers.
func (r *Reader) stream(kind byte) error {
	if err := r.each(r.skipText, r.skipText); err != nil {
		return err
	}
	numbers, group, consumer := 3, 2, uint64(8)
	if kind >= typeStream2 {
		numbers, group = 8, 3
	}
	if kind >= typeStream3 {
		consumer = 16
	}
	if err := r.lengths(numbers); err != nil {
		return err
	}
	return r.each(r.skipText, func() error { return r.lengths(group) },
		func() error { return r.each(r.bytes(16+8), r.skipLength) },
		func() error {
			return r.each(r.skipText, r.bytes(consumer), func() error { return r.each(r.bytes(16)) })
		})
}

// moduleAux reads over what a module has saved beside the keys.
func (r *Reader) moduleAux() error {
	return r.steps(func() error { return r.lengths(3) }, r.moduleParts)
}

// moduleParts reads over the parts of a module's value: each says what it is.
func (r *Reader) moduleParts() error {
	for {
		part, err := r.length()
		if err != nil {
			return err
		}
		switch part {
		case 0:
			return nil
		case 1, 2:
			err = r.skipLength()
		case 3:
			err = r.skip(4)
		case 4:
			err = r.skip(8)
		case 5:
			err = r.skipText()
		default:
			err = r.damaged("a module's value with a part of kind %d", part)
		}
		if err != nil {
			return err
		}
	}
}
