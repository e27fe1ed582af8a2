package fly_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine/fly"
)

func TestDestroyIsDoneOnlyWhenFlySaysThatTheMachineIsGone(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]failure{
		"500":                  refuseWith(500, "internal"),
		"reset":                hangUp,
		"409 of a lease":       refuseWith(409, "machine ID x lease currently held by somebody, expires at 2026"),
		"409":                  refuseWith(409, "aborted: concurrent update"),
		"412":                  refuseWith(412, "failed_precondition: unable to destroy machine"),
		"408 though it works":  after(refuseWith(408, "deadline_exceeded")),
		"500 though it works":  after(refuseWith(500, "internal")),
		"429 for a long time":  refuseWith(429, "rate limit", "Retry-After", "3600"),
		"502 of a proxy":       refuse(502, "<html>"),
		"400 of a new kind":    refuseWith(400, "invalid_argument: no"),
		"reset though it does": after(hangUp),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			p := c.provider()
			m := create(t, p, staying("m1"))
			c.fail("destroy", 1, f)
			want(t, "Destroy", p.Destroy(t.Context(), m.ID), fault.Unavailable)
			if name == "429 for a long time" {
				return // and asking again would have to wait for that long
			}
			if err := p.Destroy(t.Context(), m.ID); err != nil {
				t.Errorf("Destroy again: got %v, want nil", err)
			}
			if len(c.living()) != 0 {
				t.Error("after Destroy: the machine is still there")
			}
		})
	}
}

func TestADestroyThatIsAnsweredWith404IsCheckedBeforeItIsBelieved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		p := fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}})
		m := create(t, p, staying("m1"))
		c.fail("destroy", -1, refuseWith(404, "machine not found"))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		want(t, "Destroy of what is still there", p.Destroy(ctx, m.ID), fault.Unavailable)
		if _, err := p.Get(t.Context(), m.ID); err != nil {
			t.Errorf("Get: got %v, want the machine", err)
		}
	})
}

func TestAMachineThatStaysThoughItWasDestroyedIsNotSaidToBeGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		p := fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}})
		m := create(t, p, staying("m1"))
		c.fail("destroy", -1, refuse(200, `{"ok":true}`))
		for range 2 {
			began := time.Now()
			err := p.Destroy(t.Context(), m.ID)
			want(t, "Destroy", err, fault.Unavailable)
			if took := time.Since(began); took > 2*time.Minute {
				t.Errorf("Destroy: it waited %v, want it to give up within its patience", took)
			}
		}
		// How often it asked is what Fly allows.
		if n := c.count("wait"); n == 0 || n > 10 {
			t.Errorf("Destroy: got %d waits, want a few long ones", n)
		}
		c.heal()
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Errorf("Destroy once it works: got %v, want nil", err)
		}
	})
}

func TestADestroyThatTakesLongIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		c.end = 25 * time.Second
		p := fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}})
		m := create(t, p, staying("m1"))
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Errorf("Destroy: got %v, want nil", err)
		}
		if n := c.count("wait"); n == 0 {
			t.Error("Destroy: it never let Fly tell when the machine is gone")
		}
	})
}

func TestALeaseThatSomebodyHoldsIsToldAndWaitedOut(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	m := create(t, p, staying("m1"))
	c.change("m1", func(b *box) { b.lease = "nonce" })
	err := p.Destroy(t.Context(), m.ID)
	want(t, "Destroy of a leased machine", err, fault.Unavailable)
	if text := fmt.Sprint(err); !strings.Contains(text, "somebody@example.com") || !strings.Contains(text, "lease") {
		t.Errorf("Destroy of a leased machine: got %q, want who holds it", text)
	}
	c.change("m1", func(b *box) { b.lease = "" })
	if err := p.Destroy(t.Context(), m.ID); err != nil {
		t.Errorf("Destroy once it is released: got %v, want nil", err)
	}
}
