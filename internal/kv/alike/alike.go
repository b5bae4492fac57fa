package alike

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"lockstep/internal/resp"
)

// KindKey returns the key whose TYPE Reply has to know; false if there is none.
func KindKey(args []string) (string, bool) {
	switch name := strings.ToLower(args[0]); {
	case name == "object" && len(args) > 2:
		return args[2], true
	case (name == "sort" || name == "sort_ro") && len(args) > 1:
		return args[1], true
	}
	return "", false
}

// Apart reports whether the replies differ as they are meant to and leave different states behind: what comes after cannot be compared.
func Apart(args []string, got, want string) bool {
	return strings.EqualFold(args[0], "xsetid") && want == "+OK\r\n" && strings.HasPrefix(got, "-ERR The ID specified in XSETID is smaller than current max_deleted_entry_id")
}

// Reply reports whether got, of the machine, is as good as want, of redis-server 7.0, for the command args. kind is the
// TYPE of KindKey, else empty.
func Reply(args []string, kind, got, want string) bool {
	if got == want {
		return true
	}
	a, ok := decode(got)
	b, ok2 := decode(want)
	if !ok || !ok2 {
		return false
	}
	name := strings.ToLower(args[0])
	switch name {
	case "xadd", "xread", "xreadgroup", "xpending", "xinfo", "xsetid":
		return Stream(args, got, want)
	case "eval", "script", "function":
		return sameSyntaxError(got, want)
	case "command":
		return canonical(a) == canonical(b) || (hasWord(args, "zrank") || hasWord(args, "zrevrank")) && len(args) == 6 || // WITHSCORE came with 7.2
			len(args) > 2 && strings.HasPrefix(strings.ToLower(args[2]), "georadius") && stores(args) > 1 // Redis writes to the last key and tells of the first
	case "lpos": // the lowest rank is refused since 7.2
		return hasWord(args, "-9223372036854775808") && strings.HasPrefix(got, "-ERR value is out of range, value must between -9223372036854775807 and ")
	case "randomkey":
		return a.Kind == b.Kind
	case "object":
		return objects(args, kind, a, b)
	case "zrank", "zrevrank":
		return len(args) > 3 // WITHSCORE came with 7.2
	case "smembers", "sinter", "sunion", "sdiff", "spop", "keys", "hkeys", "hvals":
		return unordered(a, b, 1)
	case "scan", "sscan", "hscan", "zscan":
		return scans(args, a, b)
	case "hgetall":
		return unordered(a, b, 2)
	case "srandmember", "hrandfield", "zrandmember":
		if len(args) == 2 || len(args[2]) < 3 || args[2][0] == '-' {
			return sameShape(a, b) // a draw
		}
		return unordered(a, b, 1) && len(args) < 4 || unordered(a, b, 2)
	case "ttl", "expiretime":
		return near(a, b, 1)
	case "pttl", "pexpiretime":
		return near(a, b, 3000)
	case "dump":
		return a.Kind == b.Kind && a.Null == b.Null // an older version of the format
	case "sort", "sort_ro":
		return (unordered(a, b, 1) || kind == "set" && hasWord(args, "limit") && sameShape(a, b)) && sortsUnordered(args)
	case "get", "getrange", "substr", "getex", "getdel", "getset", "set":
		start := 0
		if len(args) > 2 && (name == "getrange" || name == "substr") {
			start, _ = strconv.Atoi(args[2])
		}
		return sameButCardinality(a, b, max(0, start))
	}
	if strings.HasPrefix(name, "z") || strings.HasPrefix(name, "geo") || strings.HasPrefix(name, "bz") {
		return equal(a, b, true) || strings.HasPrefix(name, "georadius") && unordered(a, b, 1) ||
			strings.HasPrefix(name, "geo") && hasWord(args, "count") && nearest(args, a, b)
	}
	return false
}

// stores counts the words STORE and STOREDIST.
func stores(args []string) (n int) {
	for _, arg := range args {
		if strings.EqualFold(arg, "store") || strings.EqualFold(arg, "storedist") {
			n++
		}
	}
	return n
}

// nearest compares what a search with COUNT found. Redis cuts an unstable order: of the members at the distance of the last one
// any may be there, all others must be the same. With ANY it may stop wherever it has enough: only what both have found must
// be the same of itself.
func nearest(args []string, a, b resp.Value) bool {
	if !sameShape(a, b) || a.Kind != '*' {
		return false
	}
	some := hasWord(args, "any")
	if !hasWord(args, "withdist") {
		return some || unordered(a, b, 1)
	}
	found := make(map[string]resp.Value)
	for _, row := range b.Items {
		if len(row.Items) < 2 {
			return false
		}
		found[row.Items[0].Text] = row
	}
	for i, row := range a.Items {
		if len(row.Items) < 2 {
			return false
		}
		distance := text(row.Items[1], true)
		other, both := found[row.Items[0].Text]
		cut := distance == text(a.Items[len(a.Items)-1].Items[1], true)
		switch {
		case both && !equal(row, other, true):
			return false
		case some:
		case !both && !cut, distance != text(b.Items[i].Items[1], true):
			return false
		}
	}
	return true
}

// noCardinality is what the machine has in bytes 8 to 15 of a HyperLogLog.
const noCardinality = "\x00\x00\x00\x00\x00\x00\x00\x80"

// sameButCardinality reports whether two texts are a HyperLogLog from byte start on, without and with the cardinality that PFCOUNT of
// Redis leaves in bytes 8 to 15.
func sameButCardinality(a, b resp.Value, start int) bool {
	const from, end = 8, 16
	if a.Kind != b.Kind || len(a.Text) != len(b.Text) || start >= end || start+len(a.Text) <= from {
		return false
	}
	low, high := max(from-start, 0), min(end-start, len(a.Text))
	if a.Text[:low] != b.Text[:low] || a.Text[high:] != b.Text[high:] {
		return false
	}
	return a.Text[low:high] == noCardinality[low+start-from:high+start-from] && (start >= 4 || strings.HasPrefix(a.Text, "HYLL"[start:]))
}

func decode(reply string) (resp.Value, bool) {
	v, used, err := resp.Decode([]byte(reply))
	return v, err == nil && used == len(reply)
}

// objects compares replies of OBJECT. Since 7.2 small sets and lists have encoding listpack.
func objects(args []string, kind string, a, b resp.Value) bool {
	if len(args) < 2 {
		return false
	}
	switch strings.ToLower(args[1]) {
	case "idletime":
		return a.Kind == b.Kind
	case "encoding":
		return a.Text == "listpack" && (kind == "set" && b.Text == "hashtable" || kind == "list" && b.Text == "quicklist")
	}
	return false
}

// equal compares values; with numbers, texts that mean the same number are equal, however many digits they have.
func equal(a, b resp.Value, numbers bool) bool {
	if a.Kind != b.Kind || a.Null != b.Null || len(a.Items) != len(b.Items) || a.Int != b.Int {
		return false
	}
	for i := range a.Items {
		if !equal(a.Items[i], b.Items[i], numbers) {
			return false
		}
	}
	return text(a, numbers) == text(b, numbers)
}

// text renders a value without items.
func text(v resp.Value, numbers bool) string {
	if len(v.Items) > 0 {
		return ""
	}
	r := resp.Reply{Proto: 3}
	v.Append(&r)
	shown := string(r.Buf)
	if v.Kind == '$' && numbers {
		shown = v.Text
	} else if v.Kind == ',' {
		shown = strings.TrimSpace(shown[1:])
	} else {
		return shown
	}
	if f, err := strconv.ParseFloat(shown, 64); err == nil && !math.IsNaN(f) {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return string(v.Kind) + shown
}

// scans compares two steps of SCAN: only whole passes can be compared, because cursors differ.
func scans(args []string, a, b resp.Value) bool {
	if len(a.Items) != 2 || len(b.Items) != 2 {
		return false
	}
	at := 2
	if strings.EqualFold(args[0], "scan") {
		at = 1
	}
	if strings.Trim(args[at], "+-0") != "" || a.Items[0].Text != "0" || b.Items[0].Text != "0" {
		return true
	}
	size := 2
	if name := strings.ToLower(args[0]); name == "scan" || name == "sscan" {
		size = 1
	}
	return unordered(a.Items[1], b.Items[1], size)
}

// sameShape reports whether two replies have the same kind and number of elements.
func sameShape(a, b resp.Value) bool {
	return a.Kind == b.Kind && a.Kind != '-' && len(a.Items) == len(b.Items) && a.Null == b.Null
}

func near(a, b resp.Value, tolerance int64) bool {
	return a.Kind == ':' && b.Kind == ':' && a.Int > 0 && b.Int > 0 && max(a.Int-b.Int, b.Int-a.Int) <= tolerance
}

// canonical renders a reply with the elements of every array in order.
func canonical(v resp.Value) string {
	if len(v.Items) == 0 {
		return text(v, false)
	}
	var items []string
	for _, item := range v.Items {
		items = append(items, canonical(item))
	}
	slices.Sort(items)
	return string(v.Kind) + strconv.Itoa(len(items)) + strings.Join(items, "")
}

// unordered compares two arrays as sets of groups of size elements each.
func unordered(a, b resp.Value, size int) bool {
	return a.Kind == b.Kind && slices.Equal(groups(a, size), groups(b, size))
}

func groups(v resp.Value, size int) []string {
	if v.Kind == '%' {
		size = 2
	}
	if len(v.Items)%size != 0 || len(v.Items) > 0 && len(v.Items[0].Items) > 0 {
		size = 1
	}
	var all []string
	for group := range slices.Chunk(v.Items, size) {
		var one strings.Builder
		for _, item := range group {
			one.WriteString(render(item))
		}
		all = append(all, one.String())
	}
	slices.Sort(all)
	return all
}

func render(v resp.Value) string {
	if len(v.Items) == 0 {
		return text(v, true)
	}
	var all strings.Builder
	for _, item := range v.Items {
		all.WriteString(render(item))
	}
	return all.String()
}

// sortsUnordered reports whether SORT was asked not to sort, or by text that may be missing, which makes elements equal:
// they then come in any order.
func sortsUnordered(args []string) bool {
	for i, arg := range args {
		if strings.EqualFold(arg, "by") && i+1 < len(args) && (!strings.Contains(args[i+1], "*") || slices.ContainsFunc(args, func(s string) bool { return strings.EqualFold(s, "alpha") })) {
			return true
		}
	}
	return false
}

// sameSyntaxError reports whether both replies refuse code at the same line. What was expected there is told in other words.
func sameSyntaxError(got, want string) bool {
	place := func(reply string) string {
		for _, chunk := range []string{"user_script:", "user_function:"} {
			if before, rest, ok := strings.Cut(reply, chunk); ok && strings.HasPrefix(before, "-ERR Error compiling ") {
				line, _, _ := strings.Cut(rest, ":")
				return before + line
			}
		}
		return ""
	}
	return place(got) != "" && place(got) == place(want)
}

func hasWord(args []string, word string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return strings.EqualFold(arg, word) })
}
