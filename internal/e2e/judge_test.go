package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// What could go wrong: the judge of all the other tests calls everything right. Each kind of wrong list is shown to it, in a
// process of its own because it must fail the test there.
func TestJudgeFindsWhatIsWrong(t *testing.T) {
	lists := map[string]struct {
		list []int64
		says string // "" for a right list
	}{
		"right":              {[]int64{1, 2, 5, 6}, ""},
		"unknown executed":   {[]int64{1, 2, 4, 5, 6}, ""},
		"unknown came late":  {[]int64{1, 2, 5, 6, 4}, ""},
		"lost":               {[]int64{1, 5, 6}, "the first that is not in its place is 2"},
		"lost at the end":    {[]int64{1, 2, 5}, "the first that is not in its place is 6"},
		"twice":              {[]int64{1, 2, 2, 5, 6}, "holds 2 twice"},
		"unknown twice":      {[]int64{1, 2, 4, 4, 5, 6}, "holds 4 twice"},
		"refused executed":   {[]int64{1, 2, 3, 5, 6}, "holds 3, which was refused"},
		"out of order":       {[]int64{2, 1, 5, 6}, "the first that is not in its place is 1"},
		"never sent":         {[]int64{1, 2, 5, 6, 7}, "only 4 were acknowledged"},
		"everything is gone": {nil, "0 of 4"},
	}
	if name := os.Getenv("JUDGE_THIS"); name != "" {
		judgeList(t, &writer{list: "l", appended: []int64{1, 2, 5, 6}, refused: []int64{3}, unknown: map[int64]bool{4: true}}, lists[name].list)
		return
	}
	for name, c := range lists {
		cmd := exec.Command(os.Args[0], "-test.run=^TestJudgeFindsWhatIsWrong$")
		cmd.Env = append(os.Environ(), "JUDGE_THIS="+name)
		out, err := cmd.CombinedOutput()
		if (err != nil) != (c.says != "") || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: %v, want %q in\n%s", name, err, c.says, out)
		}
	}
}
