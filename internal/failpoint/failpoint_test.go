package failpoint

import (
	"strings"
	"testing"
	"time"
)

func TestAChainIsTakenStepByStepAndThenIsOff(t *testing.T) {
	t.Parallel()
	points, err := parse("store.claim.after=2*off->1*error->3*delay(20); provider.create.before=kill")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 8 {
		got = append(got, string(points["store.claim.after"].next().action))
	}
	want := "off off error delay delay delay off off"
	if text := strings.Join(got, " "); text != want {
		t.Errorf("got steps %q, want %q", text, want)
	}
	for range 3 {
		if got := points["provider.create.before"].next().action; got != kill {
			t.Errorf("a step without a count gave %q, want it for ever", got)
		}
	}
}

func TestADelayIsInMilliseconds(t *testing.T) {
	t.Parallel()
	points, err := parse("a=delay(1500)")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := points["a"].next().delay, 1500*time.Millisecond; got != want {
		t.Errorf("got a delay of %v, want %v", got, want)
	}
}

func TestProgramsThatCannotBeUnderstoodAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"a", "=off", "A=off", "a b=off", "a=", "a=of", "a=0*off", "a=-1*off", "a=x*off", "a=1*", "a=1*1*off",
		"a=2000000000*off", "a=delay", "a=delay()", "a=delay(x)", "a=delay(1", "a=delay(-1)", "a=delay(3600001)",
		"a=off;a=off", "a=off->error", "a=1*off->", "a=->1*off",
	} {
		if points, err := parse(text); err == nil {
			t.Errorf("%q was accepted as %v, want it refused", text, points)
		}
	}
}

func TestAnEmptyProgramHasNoPoints(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", " ", ";", " ; ;"} {
		points, err := parse(text)
		if err != nil || len(points) != 0 {
			t.Errorf("%q gave %d points and error %v, want none", text, len(points), err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("store.claim.after=1*kill;provider.create.after=2*off->1*error")
	f.Add("a=delay(10)")
	f.Add("a=1*off->;;b==")
	f.Fuzz(func(t *testing.T, text string) {
		points, err := parse(text)
		if err != nil {
			if points != nil {
				t.Errorf("%q gave points beside the error %v", text, err)
			}
			return
		}
		for name, p := range points {
			if !validName(name) || len(p.steps) == 0 {
				t.Errorf("%q gave point %q with %d steps", text, name, len(p.steps))
			}
			for i, s := range p.steps {
				last := i == len(p.steps)-1
				if s.count != forever && (s.count < 1 || s.count > maxCount) || s.count == forever && !last {
					t.Errorf("%q gave step %d of %s a count of %d", text, i, name, s.count)
				}
				if s.delay < 0 || s.delay > maxDelay {
					t.Errorf("%q gave step %d of %s a delay of %v", text, i, name, s.delay)
				}
			}
		}
	})
}
