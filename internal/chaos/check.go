package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Violation is a broken rule.
type Violation struct {
	Rule    string `json:"rule"`
	Key     string `json:"key,omitempty"`
	Text    string `json:"text"`
	Picture string `json:"picture,omitempty"` // file beside the report
}

// addOnce appends v, unless the same was said before: each node's final read tells the same.
func addOnce(found []Violation, v Violation) []Violation {
	if slices.ContainsFunc(found, func(before Violation) bool { return before.Text == v.Text }) {
		return found
	}
	return append(found, v)
}

// Checked is what became of a history.
type Checked struct {
	Keys       int         `json:"keys"`
	Ops        int         `json:"ops"`
	Undecided  []string    `json:"undecided,omitempty"` // keys that could not be checked in time
	Handed     []Handed    `json:"handed,omitempty"`
	Kinds      []KeyCount  `json:"kinds"`
	Violations []Violation `json:"violations"`
}

// Handed is an element that was acknowledged and then taken out by a pop whose outcome nobody knows: for a client whose connection
// broke, or whose node died while it waited.
type Handed struct {
	Key     string `json:"key"`
	Element string `json:"element"`
}

// KeyCount is how many keys of a kind were checked, and by how many operations that were acknowledged.
type KeyCount struct {
	Kind string `json:"kind"`
	Keys int    `json:"keys"`
	Ops  int    `json:"ops"` // acknowledged
}

// letterNames says what the first letters of keys stand for.
var letterNames = map[byte]string{'r': "registers", 'c': "counters", 't': "texts", 'l': "lists", 'p': "pairs", 'e': "scripts", 'q': "queues",
	'm': "queues moved from", 'z': "priority queues", 's': "streams", 'n': "pub/sub"}

// keyPatience is how long porcupine may think about one key.
const keyPatience = 20 * time.Second

// maxPictures bounds the pictures of one run.
const maxPictures = 10

// checkHistory holds a history against the rules. Pictures of keys that are not linearizable go to dir.
func checkHistory(ops []Op, dir string) Checked {
	keys := byKey(ops)
	result := Checked{Keys: len(keys), Ops: len(ops), Violations: []Violation{}}
	for _, key := range sortedKeys(keys) {
		result.count(key, keys[key])
		switch key[0] {
		case 'q', 'm', 'z':
			found, handed := checkQueue(key, keys[key])
			result.Violations = append(result.Violations, found...)
			for _, element := range handed {
				result.Handed = append(result.Handed, Handed{key, element})
			}
			continue
		case 's':
			result.Violations = append(result.Violations, checkStream(key, keys[key])...)
			continue
		case 'n':
			result.Violations = append(result.Violations, checkChannels(keys[key])...)
			continue
		}
		picture := filepath.Join(dir, "key-"+key+".html")
		if len(result.Violations) >= maxPictures {
			picture = ""
		}
		violation, decided := checkKey(key, keys[key], picture)
		if !decided {
			result.Undecided = append(result.Undecided, key)
		}
		if violation != nil {
			result.Violations = append(result.Violations, *violation)
		}
		result.Violations = append(result.Violations, checkSwaps(key, keys[key])...)
		if key[0] == 'l' {
			result.Violations = append(result.Violations, checkList(key, keys[key])...)
		}
	}
	return result
}

// count counts a key and its operations.
func (c *Checked) count(key string, ops []Op) {
	name := letterNames[key[0]]
	at := slices.IndexFunc(c.Kinds, func(k KeyCount) bool { return k.Kind == name })
	if at < 0 {
		at = len(c.Kinds)
		c.Kinds = append(c.Kinds, KeyCount{Kind: name})
	}
	c.Kinds[at].Keys++
	for _, op := range ops {
		if op.Outcome == OK {
			c.Kinds[at].Ops++
		}
	}
}

// checkSwaps: a compare-and-set is not done only if somebody else may have written the key since it was watched.
func checkSwaps(key string, ops []Op) []Violation {
	var found []Violation
	for _, swap := range ops {
		if swap.Kind != Swap || swap.Outcome != OK || swap.Out != "0" {
			continue
		}
		disturbed := slices.ContainsFunc(ops, func(op Op) bool {
			return op.ID != swap.ID && !op.Kind.reads() && op.Outcome != Refused && op.Call < swap.Return && op.Return > swap.Since
		})
		if !disturbed {
			found = append(found, Violation{Rule: "compare-and-set fails only if the key changes", Key: key,
				Text: fmt.Sprintf("operation %d on %s was told that the key had changed; nobody wrote it meanwhile", swap.ID, swap.Node)})
		}
	}
	return found
}

func byKey(ops []Op) map[string][]Op {
	keys := make(map[string][]Op)
	for _, op := range ops {
		keys[op.Key] = append(keys[op.Key], op)
	}
	return keys
}

func sortedKeys(keys map[string][]Op) []string {
	names := make([]string, 0, len(keys))
	for name := range keys {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// checkKey asks porcupine whether one key's history is linearizable, and draws a picture if not.
func checkKey(key string, ops []Op, picture string) (violation *Violation, decided bool) {
	var list []porcupine.Operation
	for _, op := range ops {
		// What was refused never happens: if it did, a read shows what nothing else explains. A read that was not
		// answered tells nothing.
		if op.Outcome == Refused || op.Kind.reads() && op.Outcome != OK {
			continue
		}
		list = append(list, porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Call, Output: op, Return: op.Return})
	}
	result, info := porcupine.CheckOperationsVerbose(model, list, keyPatience)
	if result != porcupine.Illegal {
		return nil, result == porcupine.Ok
	}
	violation = &Violation{Rule: "linearizable", Key: key, Text: fmt.Sprintf("%d operations have no order that explains their answers", len(list))}
	if picture != "" {
		if err := drawPicture(info, picture); err != nil {
			violation.Text += ": " + err.Error()
		} else {
			violation.Picture = filepath.Base(picture)
		}
	}
	return violation, true
}

func drawPicture(info porcupine.LinearizationInfo, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("create picture: %w", err)
	}
	if err := porcupine.Visualize(model, info, file); err != nil {
		file.Close()
		return fmt.Errorf("draw picture: %w", err)
	}
	return file.Close()
}

// model is one key of any kind. Its state is what a read answers: "" for nothing; a list is its elements, each with a
// comma before it.
var model = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		return step(state.(string), input.(Op))
	},
	DescribeOperation: func(input, _ any) string { return describe(input.(Op)) },
	DescribeState:     func(state any) string { return shorten(state.(string)) },
}

// step executes op on state. It reports whether the answer could have been op's, which is always so if it is unknown.
func step(state string, op Op) (possible bool, next string) {
	known := op.Outcome == OK
	switch op.Kind {
	case Get, Range:
		return op.Out == state, state
	case Set:
		return true, op.Arg
	case Swap:
		if known && op.Out == "0" {
			return true, state // the key may have changed between WATCH and GET: that it did not since GET proves nothing
		}
		if state == op.Old {
			return true, op.Arg
		}
		return !known, state
	case Incr:
		count, err := strconv.ParseInt(state, 10, 64)
		if err != nil && state != "" {
			return false, state
		}
		next = strconv.FormatInt(count+1, 10)
		return !known || op.Out == next, next
	case Call:
		next = state + "." + op.Arg
		return !known || op.Out == strconv.Itoa(strings.Count(next, ".")), next
	case Append:
		next = state + op.Arg
		return !known || op.Out == strconv.Itoa(len(next)), next
	case Push:
		next = state + "," + op.Arg
		return !known || op.Out == strconv.Itoa(strings.Count(next, ",")), next
	}
	return false, state
}

func describe(op Op) string {
	answer := shorten(op.Out)
	if op.Outcome != OK {
		answer = string(op.Outcome)
	}
	if op.Kind == Swap {
		return fmt.Sprintf("swap(%s, %s) -> %s", shorten(op.Old), op.Arg, answer)
	}
	return fmt.Sprintf("%s(%s) -> %s", op.Kind, op.Arg, answer)
}

// shorten keeps the end of a long value: that is where it changes.
func shorten(value string) string {
	const most = 40
	if len(value) <= most {
		return value
	}
	return "…" + value[len(value)-most:]
}

// elements splits what a Range answers.
func elements(out string) []string {
	if out == "" {
		return nil
	}
	return strings.Split(out[1:], ",")
}
