package chaos

import (
	"fmt"
	"strconv"
	"strings"

	"lockstep/internal/resp"
)

// answer turns a reply into what an Op carries, or says why it cannot be the reply to op.
func answer(op Op, reply resp.Value) (string, error) {
	strange := func() (string, error) {
		return "", &strangeReply{fmt.Sprintf("reply of kind %q, text %q and %d items", reply.Kind, reply.Text, len(reply.Items))}
	}
	isPair := op.Key[0] == 'p'
	switch {
	case op.Kind == Range && op.Key[0] == 's':
		return answerOfStream(reply)
	case op.Kind == Range && op.Key[0] != 'l':
		return answerOfQueue(reply)
	case op.Kind == Range:
		if reply.Kind != '*' {
			return strange()
		}
		out, err := integers(reply)
		if err != nil {
			return "", &strangeReply{err.Error()}
		}
		return out, nil
	case op.Kind == Incr || op.Kind == Append || op.Kind == Push || op.Kind == Call || op.Kind == Ack || op.Kind == Publish:
		if reply.Kind != ':' {
			return strange()
		}
		return strconv.FormatInt(reply.Int, 10), nil
	case op.Kind == Get && op.Key[0] == 'e':
		return answerOfScript(reply)
	case op.Kind == Get && isPair:
		if reply.Kind != '*' || len(reply.Items) != 2 {
			return strange()
		}
		if a, b := reply.Items[0].Text, reply.Items[1].Text; a != b {
			return a + "|" + b, nil // which no order of operations explains
		}
		return reply.Items[0].Text, nil
	case op.Kind == Get:
		if reply.Kind != '$' && !reply.Null {
			return strange()
		}
		return reply.Text, nil
	case op.Kind == Swap:
		if reply.Null {
			return "0", nil
		}
		if reply.Kind != '*' || len(reply.Items) != len(namesOf(op.Key)) || reply.Items[0].Text != "OK" || reply.Items[len(reply.Items)-1].Text != "OK" {
			return strange()
		}
		return "1", nil
	case op.Kind == Pop:
		return answerOfPop(reply)
	case op.Kind == Take:
		return answerOfTake(reply)
	case op.Kind == Add:
		if reply.Kind != '$' || reply.Null {
			return strange()
		}
		return reply.Text, nil
	case isPair:
		if reply.Kind != '*' || len(reply.Items) != 2 || reply.Items[0].Text != "OK" || reply.Items[1].Text != "OK" {
			return strange()
		}
		return "", nil
	case reply.Text != "OK":
		return strange()
	}
	return "", nil
}

// answerOfScript puts together what three keys hold that only scripts write: a count, a text of pieces, and a list of the same
// pieces. Where they agree, that is the text.
func answerOfScript(reply resp.Value) (string, error) {
	if reply.Kind != '*' || len(reply.Items) != 3 || reply.Items[2].Kind != '*' {
		return "", &strangeReply{fmt.Sprintf("reply of kind %q and %d items", reply.Kind, len(reply.Items))}
	}
	var list strings.Builder
	for _, item := range reply.Items[2].Items {
		list.WriteString("." + item.Text)
	}
	count, text := reply.Items[0].Text, reply.Items[1].Text
	if count == "" {
		count = "0"
	}
	if count != strconv.Itoa(len(reply.Items[2].Items)) || text != list.String() {
		return count + "|" + text + "|" + list.String(), nil // which no order of operations explains
	}
	return text, nil
}

// answerOfPop finds the element in the reply of a blocking pop of any kind: alone, behind the key's name, before its score, or in
// a list behind the key's name.
func answerOfPop(reply resp.Value) (string, error) {
	switch {
	case reply.Null:
		return "", nil
	case reply.Kind == '$':
		return reply.Text, nil
	case reply.Kind == '*' && len(reply.Items) >= 2 && reply.Items[1].Kind == '$':
		return reply.Items[1].Text, nil
	case reply.Kind == '*' && len(reply.Items) == 2 && len(reply.Items[1].Items) == 1:
		item := reply.Items[1].Items[0]
		if len(item.Items) == 2 { // of BZMPOP
			item = item.Items[0]
		}
		return item.Text, nil
	}
	return "", &strangeReply{fmt.Sprintf("reply of kind %q, text %q and %d items to a pop", reply.Kind, reply.Text, len(reply.Items))}
}

// answerOfTake lists the entries in the reply of XREADGROUP on one stream.
func answerOfTake(reply resp.Value) (string, error) {
	if reply.Null {
		return "", nil
	}
	if reply.Kind != '*' || len(reply.Items) != 1 || len(reply.Items[0].Items) != 2 {
		return "", &strangeReply{fmt.Sprintf("reply of kind %q and %d items to XREADGROUP", reply.Kind, len(reply.Items))}
	}
	return entriesOf(reply.Items[0].Items[1])
}

// entriesOf lists entries of a stream with one field each.
func entriesOf(list resp.Value) (string, error) {
	var b strings.Builder
	for _, entry := range list.Items {
		if len(entry.Items) != 2 || len(entry.Items[1].Items) != 2 {
			return "", &strangeReply{fmt.Sprintf("an entry of %d items", len(entry.Items))}
		}
		b.WriteString("," + entry.Items[0].Text + "=" + entry.Items[1].Items[1].Text)
	}
	return b.String(), nil
}
