package kv

import (
	"bytes"
	"math"

	"lockstep/internal/acl"
)

// toldKeys returns the keys that COMMAND GETKEYS tells of, as Redis finds them: by the specifications if these fit the arguments to the last
// one, else by what some commands have instead, which tells of no flags. KeyUses is stricter about what it finds and is what access control
// goes by.
func toldKeys(name string, args [][]byte) []KeyUse {
	specs := commandUses[name].specs
	var told []KeyUse
	for i := range specs {
		s := &specs[i]
		if s.fake {
			continue
		}
		first, last, ok := s.place(args)
		if s.unknown || s.partial || !ok || first == 0 || last < first {
			return keysWithoutFlags(name, args)
		}
		for at := first; at <= last; at += s.step {
			told = append(told, KeyUse{args[at], s.access, s.flags})
		}
	}
	refineKeys(name, args, told)
	return told
}

// keysWithoutFlags returns the keys of a command whose specifications do not tell of all of them. Those that a number counts have no flags; Redis
// reads that number as C's atoi does.
func keysWithoutFlags(name string, args [][]byte) []KeyUse {
	source := KeyUse{Access: acl.Read, flags: setValue("RO", "access").Items}
	switch command := byName[name]; {
	case name == "sort":
		source.Key = args[1]
		return sortDestination(args, []KeyUse{source})
	case name == "sort_ro":
		source.Key = args[1]
		return []KeyUse{source}
	case name == "georadius", name == "georadiusbymember":
		source.Key = args[1]
		return withRadiusDestination(args, []KeyUse{source})
	case command != nil && command.numkeys > 0:
		first := command.numkeys + 1
		count := leadingNumber(args[command.numkeys])
		if count < 1 || count > len(args)-first {
			return nil
		}
		var uses []KeyUse
		for _, key := range args[first : first+count] {
			uses = append(uses, KeyUse{Key: key})
		}
		if command.FirstKey > 0 { // the destination
			uses = append(uses, KeyUse{Key: args[command.FirstKey]})
		}
		return uses
	}
	return nil
}

// leadingNumber returns the number with which a text begins, 0 if it begins with none.
func leadingNumber(text []byte) (n int) {
	text = bytes.TrimLeft(text, " \t\n\v\f\r")
	text, negative := bytes.CutPrefix(text, []byte("-"))
	if !negative {
		text = bytes.TrimPrefix(text, []byte("+"))
	}
	for _, digit := range text {
		if digit < '0' || digit > '9' || n > math.MaxInt32/10 {
			break
		}
		n = 10*n + int(digit-'0')
	}
	if negative {
		return -n
	}
	return n
}

// withRadiusDestination appends the key behind the last STORE or STOREDIST of GEORADIUS, which counts, to uses.
func withRadiusDestination(args [][]byte, uses []KeyUse) []KeyUse {
	store := 0
	for i := 5; i+1 < len(args); i++ {
		if isWord(args[i], "store") || isWord(args[i], "storedist") {
			i++
			store = i
		}
	}
	if store == 0 {
		return uses
	}
	return append(uses, KeyUse{args[store], acl.Write, setValue("OW", "update").Items})
}
