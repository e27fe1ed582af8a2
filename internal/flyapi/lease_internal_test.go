package flyapi

import (
	"errors"
	"net/http"
	"testing"
	"time"
)

func TestALeaseHoldsAgainstWhoeverLacksItsNonceUntilItEnds(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	s := &Service{Options: Options{Now: func() time.Time { return now }}}
	m := &record{ID: "1", Lease: &lease{Nonce: "n", ExpiresAt: now.Unix() + 10}}
	var refused *problem
	if err := s.checkLease(m, ""); !errors.As(err, &refused) || refused.status != http.StatusConflict {
		t.Errorf("a change without the nonce: got error %v, want 409", err)
	}
	if err := s.checkLease(m, "n"); err != nil {
		t.Errorf("a change with the nonce: got error %v, want nil", err)
	}
	now = now.Add(time.Minute)
	if err := s.checkLease(m, ""); err != nil {
		t.Errorf("a change after the lease has ended: got error %v, want nil", err)
	}
}
