package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// vocabulary is what can be asked for: by metric, the values seen of each of its labels.
type vocabulary map[string]map[string]map[string]bool

// promql reads a query and says which labels its result has. It knows the part of the language that our queries use, and
// takes nothing else. It checks what Prometheus would say when the rule is loaded, and what it would not: that every metric
// and label exists, that label values compared with "=" occur, and that both sides of an operator can have equal labels.
type promql struct {
	known  vocabulary
	tokens []string
	next   int
}

// value is the type of an expression: labels is nil for a number.
type value struct {
	labels []string // sorted
	ranged bool     // a range vector, as rate takes it
}

func (v value) vector() bool { return v.labels != nil }

var promqlToken = regexp.MustCompile(`^(?:\s+|"(?:[^"\\]|\\.)*"|\$__rate_interval|\[[^\]]*\]|=~|!~|!=|==|<=|>=|[-+*/%^<>=(){},]|[0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?|[a-zA-Z_:][a-zA-Z0-9_:]*)`)

var (
	rangeFunctions = []string{"rate", "increase", "deriv"}
	functions      = []string{"abs", "ceil", "clamp_min"}
	aggregations   = []string{"sum", "min", "max", "avg", "count", "topk"}
	duration       = regexp.MustCompile(`^\[([0-9]+[smhd]|\$__rate_interval)\]$`)
)

// check returns the labels of the query's result.
func (known vocabulary) check(query string) (labels []string, err error) {
	p := &promql{known: known}
	for rest := query; rest != ""; {
		token := promqlToken.FindString(rest)
		if token == "" {
			return nil, fmt.Errorf("cannot read %q", rest)
		}
		rest = rest[len(token):]
		if strings.TrimSpace(token) != "" {
			p.tokens = append(p.tokens, token)
		}
	}
	defer func() {
		if problem, ok := recover().(promqlError); ok {
			err = problem
		}
	}()
	result := p.expression(0)
	if p.next < len(p.tokens) {
		p.fail("%q is left over", strings.Join(p.tokens[p.next:], " "))
	}
	if result.ranged {
		p.fail("the result is a range")
	}
	return result.labels, nil
}

type promqlError struct{ error }

func (p *promql) fail(format string, values ...any) {
	panic(promqlError{fmt.Errorf(format, values...)})
}

func (p *promql) peek() string {
	if p.next < len(p.tokens) {
		return p.tokens[p.next]
	}
	return ""
}

func (p *promql) take() string {
	token := p.peek()
	p.next++
	return token
}

func (p *promql) accept(token string) bool {
	if p.peek() == token {
		p.next++
		return true
	}
	return false
}

func (p *promql) expect(token string) {
	if got := p.take(); got != token {
		p.fail("%q instead of %q", got, token)
	}
}

// strength of the binary operators.
var strength = map[string]int{
	"or": 1, "and": 2, "unless": 2, "==": 3, "!=": 3, "<": 3, ">": 3, "<=": 3, ">=": 3, "+": 4, "-": 4, "*": 5, "/": 5,
}

func (p *promql) expression(least int) value {
	left := p.operand()
	for {
		operator := p.peek()
		force := strength[operator]
		if force == 0 || force <= least {
			return left
		}
		p.take()
		var on []string
		matched := p.peek() == "on"
		if matched {
			p.take()
			on = p.names()
		}
		right := p.expression(force)
		left = p.combine(operator, left, right, on, matched)
	}
}

// combine checks that the sides of an operator go together.
func (p *promql) combine(operator string, left, right value, on []string, matched bool) value {
	switch {
	case left.ranged || right.ranged:
		p.fail("%s of a range", operator)
	case strength[operator] <= 2 && !(left.vector() && right.vector()):
		p.fail("%s of a number", operator)
	case !left.vector():
		return right
	case !right.vector():
		return left
	case matched:
		for _, name := range on {
			if !slices.Contains(left.labels, name) || !slices.Contains(right.labels, name) {
				p.fail("%s on %s: labels %v and %v", operator, name, left.labels, right.labels)
			}
		}
	case !slices.Equal(left.labels, right.labels):
		p.fail("the sides of %s have the labels %v and %v: they never match", operator, left.labels, right.labels)
	}
	return left
}

func (p *promql) operand() value {
	token := p.take()
	switch {
	case token == "(":
		inner := p.expression(0)
		p.expect(")")
		return inner
	case token == "":
		p.fail("it ends too early")
	case token[0] >= '0' && token[0] <= '9':
		return value{}
	case slices.Contains(aggregations, token):
		return p.aggregation(token)
	case token == "time":
		p.expect("(")
		p.expect(")")
		return value{}
	case token == "histogram_quantile":
		p.expect("(")
		p.expression(0)
		p.expect(",")
		inner := p.expression(0)
		p.expect(")")
		if !slices.Contains(inner.labels, "le") {
			p.fail("histogram_quantile of %v, which has no le", inner.labels)
		}
		return value{labels: withoutLabel(inner.labels, "le")}
	case slices.Contains(rangeFunctions, token), slices.Contains(functions, token):
		p.expect("(")
		inner := p.expression(0)
		for p.accept(",") {
			p.expression(0)
		}
		p.expect(")")
		if inner.ranged != slices.Contains(rangeFunctions, token) {
			p.fail("%s of the wrong thing", token)
		}
		return value{labels: inner.labels}
	case regexp.MustCompile(`^[a-zA-Z_:]`).MatchString(token):
		return p.selector(token)
	}
	p.fail("%q at a place where a value should stand", token)
	return value{}
}

func (p *promql) aggregation(name string) value {
	grouped := p.peek() == "by"
	var by []string
	if grouped {
		p.take()
		by = p.names()
	}
	p.expect("(")
	inner := p.expression(0)
	if name == "topk" {
		p.expect(",")
		inner = p.expression(0)
	}
	p.expect(")")
	if p.peek() == "by" && !grouped {
		p.take()
		by = p.names()
	}
	if !inner.vector() || inner.ranged {
		p.fail("%s of no vector", name)
	}
	for _, label := range by {
		if !slices.Contains(inner.labels, label) {
			p.fail("%s by %s: there are only %v", name, label, inner.labels)
		}
	}
	if name == "topk" {
		return inner
	}
	return value{labels: append([]string{}, slices.Sorted(slices.Values(by))...)}
}

// names reads "(a, b)".
func (p *promql) names() (names []string) {
	p.expect("(")
	for !p.accept(")") {
		names = append(names, p.take())
		if p.peek() != ")" {
			p.expect(",")
		}
	}
	return names
}

func (p *promql) selector(metric string) value {
	labels, known := p.known[metric]
	if !known {
		p.fail("no process shows %s", metric)
	}
	if p.accept("{") {
		for !p.accept("}") {
			name, operator, text := p.take(), p.take(), p.take()
			values := labels[name]
			switch {
			case values == nil:
				p.fail("%s has no label %s", metric, name)
			case !slices.Contains([]string{"=", "!=", "=~", "!~"}, operator) || !strings.HasPrefix(text, `"`):
				p.fail("%s%s%s is no matcher", name, operator, text)
			case operator == "=" && name != "err" && !values[strings.Trim(text, `"`)]:
				p.fail("%s{%s} is never %s", metric, name, text)
			}
			if operator == "=~" {
				if _, err := regexp.Compile(strings.Trim(text, `"`)); err != nil {
					p.fail("%s: %v", text, err)
				}
			}
			if p.peek() != "}" {
				p.expect(",")
			}
		}
	}
	v := value{labels: []string{}}
	for name := range labels {
		v.labels = append(v.labels, name)
	}
	slices.Sort(v.labels)
	if strings.HasPrefix(p.peek(), "[") {
		if length := p.take(); !duration.MatchString(length) {
			p.fail("%s is no range", length)
		}
		v.ranged = true
	}
	return v
}

func withoutLabel(labels []string, label string) []string {
	return slices.DeleteFunc(slices.Clone(labels), func(l string) bool { return l == label })
}

// What could go wrong: a checker that takes everything. Each of these mistakes must be found, and what is right must pass.
func TestQueriesAreChecked(t *testing.T) {
	t.Parallel()
	seen := func(values ...string) map[string]bool {
		all := make(map[string]bool)
		for _, v := range values {
			all[v] = true
		}
		return all
	}
	known := vocabulary{
		"a_total":  {"instance": seen("x"), "group": seen("g1"), "kind": seen("k")},
		"b":        {"instance": seen("x"), "group": seen("g1")},
		"c":        {"instance": seen("x"), "group": seen("g1")},
		"h_bucket": {"instance": seen("x"), "le": seen("1")},
	}
	for query, want := range map[string]string{
		`a_total{kind="k"}`: "group instance kind",
		`sum by (group) (rate(a_total{group=~"$group"}[5m])) > 0.5`: "group",
		`max(b) == 0`:           "",
		`b - time() < 86400`:    "group instance",
		`b / c < 0.1 and c > 0`: "group instance",
		`histogram_quantile(0.99, sum by (le, instance) (rate(h_bucket[$__rate_interval])))`: "instance",
		`b and on (group) a_total == 1`:                                               "group instance",
		`count(count by (group) (b)) > 1`:                                             "",
		`topk(8, sum by (group) (rate(a_total[1h])) / sum by (group) (deriv(b[5m])))`: "group",
		`max by (group) (b) < max by (group) (a_total{kind="k"})`:                     "group",
		`rate(b[5m]) / (rate(b[5m]) + rate(c[5m]))`:                                   "group instance",
	} {
		labels, err := known.check(query)
		if err != nil || strings.Join(labels, " ") != want {
			t.Errorf("%s: labels %v, %v", query, labels, err)
		}
	}
	for query, want := range map[string]string{
		`d`: "no process shows d", `b{kind="k"}`: "no label kind", `a_total{kind="z"}`: "is never", `sum by (kind) (b)`: "there are only",
		`rate(b)`: "wrong thing", `b[5m]`: "a range", `b / a_total`: "never match", `(b`: `instead of ")"`, `b > `: "too early", `b b`: "left over",
		`histogram_quantile(0.9, rate(a_total[5m]))`: "no le", `b and 1`: "of a number", `rate(b[5 parsecs])`: "no range", `b{group=~"("}`: "missing closing",
		`b and on (kind) a_total`: "on kind", `b ; c`: "cannot read", `sum(1)`: "no vector", `b - time(1)`: `instead of`, `> 1`: "should stand", `max(b[5m])`: "no vector",
	} {
		if labels, err := known.check(query); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: labels %v, error %v, want %q", query, labels, err, want)
		}
	}
	if _, err := known.check("b"); errors.Is(err, promqlError{}) {
		t.Error(err)
	}
}
