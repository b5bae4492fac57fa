package alike

import (
	"slices"
	"strings"

	"lockstep/internal/resp"
)

// Stream reports whether got, of the machine, is as good as want, of redis-server 7.0, for a stream command: up to the time that
// passed while the transcript was recorded, and to what Redis 7.2 changed. XINFO tells more of consumers, a consumer is made
// when it asks and not when it is given something, and XSETID looks at deleted entries first. Where no sequence is left for XADD, Redis
// 7.0 tells one of two reasons, by an errno that an earlier command left.
func Stream(args []string, got, want string) bool {
	a, _, errA := resp.Decode([]byte(got))
	b, _, errB := resp.Decode([]byte(want))
	if errA != nil || errB != nil {
		return false
	}
	switch name := strings.ToLower(args[0]); {
	case name == "xadd" && args[1] == "auto":
		return a.Kind == b.Kind && a.Null == b.Null && a.Kind != '-'
	case name == "xadd":
		return slices.ContainsFunc(args, func(arg string) bool { return strings.HasSuffix(arg, "-*") }) &&
			strings.HasPrefix(got, "-ERR The ID specified in XADD is equal or smaller") && strings.HasPrefix(want, "-ERR Elements are too large")
	case name == "xsetid":
		return a.Kind == '-' && b.Kind == '-' && (strings.HasPrefix(want, "-ERR The ID specified in XSETID is smaller than the target") || strings.HasPrefix(want, "-ERR The entries_added specified in XSETID")) &&
			strings.HasPrefix(got, "-ERR The ID specified in XSETID is smaller than current max_deleted_entry_id")
	case name == "xread" || name == "xreadgroup":
		return strings.HasPrefix(want, "-ERR Unbalanced") && strings.HasPrefix(got, "-ERR Unbalanced '"+name+"'")
	case name == "xpending":
		return alikePending(a, b)
	case name == "xinfo":
		return alikeValues(withoutIdle(a), withoutIdle(b))
	}
	return false
}

// nearlyEqual compares times in milliseconds.
func nearlyEqual(a, b int64) bool { return max(a-b, b-a) < 60_000 }

func alikePending(a, b resp.Value) bool {
	if len(a.Items) != len(b.Items) {
		return false
	}
	for i := range a.Items {
		x, y := a.Items[i].Items, b.Items[i].Items
		if len(x) != 4 || len(y) != 4 || x[0].Text != y[0].Text || x[1].Text != y[1].Text || !nearlyEqual(x[2].Int, y[2].Int) || x[3].Int != y[3].Int {
			return false
		}
	}
	return true
}

// alikeValues compares what withoutIdle leaves, integers above a billion as times.
func alikeValues(a, b resp.Value) bool {
	if a.Kind == ':' && b.Kind == ':' && a.Int > 1e9 && b.Int > 1e9 {
		return nearlyEqual(a.Int, b.Int)
	}
	if a.Kind != b.Kind || a.Text != b.Text || a.Int != b.Int || a.Null != b.Null || len(a.Items) != len(b.Items) {
		return false
	}
	for i := range a.Items {
		if !alikeValues(a.Items[i], b.Items[i]) {
			return false
		}
	}
	return true
}

// withoutIdle takes out of a reply of XINFO what cannot be compared: consumers without pending entries and how many there
// are, when consumers were there.
func withoutIdle(v resp.Value) resp.Value {
	var items []resp.Value
	pairs := len(v.Items)%2 == 0
	for i := 0; i < len(v.Items); i++ {
		item := v.Items[i]
		if pairs && i%2 == 0 && item.Kind == '$' && slices.Contains([]string{"idle", "inactive", "seen-time", "active-time", "consumers"}, item.Text) {
			if item.Text == "consumers" && v.Items[i+1].Kind == '*' {
				items = append(items, withoutIdle(v.Items[i+1]))
			}
			i++
			continue
		}
		if field := pendingOf(item); field == 0 {
			continue
		}
		items = append(items, withoutIdle(item))
	}
	v.Items = items
	return v
}

// pendingOf returns how many entries are pending for a consumer that XINFO tells of; -1 if v is not one.
func pendingOf(v resp.Value) int64 {
	if len(v.Items) < 6 || v.Items[0].Text != "name" {
		return -1
	}
	for i := 0; i+1 < len(v.Items); i += 2 {
		switch v.Items[i].Text {
		case "consumers", "last-delivered-id":
			return -1 // a group
		case "pel-count":
			return v.Items[i+1].Int
		}
	}
	if v.Items[2].Text == "pending" {
		return v.Items[3].Int
	}
	return -1
}
