package flyapi

import (
	"crypto/subtle"
	"net/http"
	"strconv"
	"time"
)

// nonceHeader carries the nonce of a lease.
const nonceHeader = "Fly-Machine-Lease-Nonce"

// The bounds of a lease, in seconds.
const (
	defaultLease = 120
	maxLease     = 86400
)

// leaseRequest is the body of a lease.
type leaseRequest struct {
	TTL         int64  `json:"ttl"`
	Description string `json:"description"`
}

// envelope is how answers about leases come.
type envelope struct {
	Status  string `json:"status"`
	Data    any    `json:"data,omitempty"`
	Message string `json:"message,omitempty"`
	Code    string `json:"code,omitempty"`
}

func newLease(m *record, ttl int64, description string, now time.Time) *lease {
	return &lease{
		Nonce: randomHex(6), ExpiresAt: now.Unix() + ttl, Owner: "dayfly", Description: description, Version: m.Instance,
	}
}

// checkLease refuses a change of a leased machine by anybody but the lease's holder.
func (s *Service) checkLease(m *record, nonce string) error {
	held := m.leased(s.Now())
	if held == nil || sameNonce(held, nonce) {
		return nil
	}
	return errHeld(m, held)
}

// asked commits a change that a request asks for. The lease is looked at once more, in the same step: somebody may have
// taken it since the request came.
func (s *Service) asked(r *request, op string, edit func(*record) error) (*record, error) {
	return s.change(r.committed(), r.entry, op, func(m *record) error {
		if err := s.checkLease(m, r.Header.Get(nonceHeader)); err != nil {
			return err
		}
		return edit(m)
	})
}

func sameNonce(held *lease, nonce string) bool {
	return subtle.ConstantTimeCompare([]byte(held.Nonce), []byte(nonce)) == 1
}

func errHeld(m *record, held *lease) *problem {
	return refuse(http.StatusConflict, "machine ID %s lease currently held by %s, expires at %s",
		m.ID, held.Owner, time.Unix(held.ExpiresAt, 0).UTC().Format(time.RFC3339)).coded("lease")
}

// shownLease returns the lease that holds, without the nonce that is its holder's alone.
func (s *Service) shownLease(m *record) *lease {
	held := m.leased(s.Now())
	if held == nil {
		return nil
	}
	shown := *held
	shown.Nonce = ""
	return &shown
}

func (s *Service) getLease(r *request) (int, any, error) {
	held := s.shownLease(r.entry.record())
	if held == nil {
		return 0, nil, refuse(http.StatusNotFound, "not_found: lease not found")
	}
	return http.StatusOK, &envelope{Status: "success", Data: held}, nil
}

// takeLease takes a lease, or refreshes the one whose nonce is sent.
func (s *Service) takeLease(r *request) (int, any, error) {
	wanted := &leaseRequest{}
	if err := r.read(maxSmallBody, wanted); err != nil {
		return 0, nil, err
	}
	if text := r.URL.Query().Get("ttl"); text != "" {
		ttl, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return 0, nil, invalid("ttl %.40q is not a number of seconds", text)
		}
		wanted.TTL = ttl
	}
	if wanted.TTL == 0 {
		wanted.TTL = defaultLease
	}
	if wanted.TTL < 0 || wanted.TTL > maxLease || len(wanted.Description) > 1000 {
		return 0, nil, invalid("ttl must be from 1 to %d seconds and description at most 1000 bytes", maxLease)
	}
	nonce := r.Header.Get(nonceHeader)
	var held *lease
	m, err := s.change(r.committed(), r.entry, "lease", func(m *record) error {
		if m.State == destroyed {
			return noMachine()
		}
		now := s.Now()
		held = m.leased(now)
		switch {
		case held == nil && nonce != "":
			return invalid("the lease of this nonce has ended")
		case held == nil:
			m.Lease = newLease(m, wanted.TTL, wanted.Description, now)
		case nonce == "":
			return errUnchanged // somebody holds it
		case !sameNonce(held, nonce):
			return invalid("this nonce is not that of the machine's lease")
		default:
			m.Lease.ExpiresAt, m.Lease.Version = now.Unix()+wanted.TTL, m.Instance
		}
		return nil
	})
	if isUnchanged(err) {
		p := errHeld(m, held)
		return p.status, &envelope{Status: "error", Message: p.text, Code: "invalid"}, nil
	}
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, &envelope{Status: "success", Data: m.Lease}, nil
}

func (s *Service) releaseLease(r *request) (int, any, error) {
	nonce := r.Header.Get(nonceHeader)
	_, err := s.change(r.committed(), r.entry, "lease", func(m *record) error {
		held := m.leased(s.Now())
		switch {
		case held == nil:
			return refuse(http.StatusNotFound, "not_found: lease not found")
		case !sameNonce(held, nonce):
			return invalid("the lease can be released only with its nonce, in the header %s", nonceHeader)
		}
		m.Lease = nil
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &envelope{Status: "success", Data: &fine{OK: true}}, nil
}
