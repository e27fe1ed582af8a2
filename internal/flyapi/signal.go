package flyapi

import (
	"encoding/json"
	"strconv"
	"strings"
)

// signals returns the signals that a machine can be sent, with the numbers they have on Linux.
func signals() map[string]int {
	return map[string]int{
		"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGILL": 4, "SIGTRAP": 5, "SIGABRT": 6, "SIGFPE": 8, "SIGKILL": 9, "SIGUSR1": 10,
		"SIGSEGV": 11, "SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGTERM": 15, "SIGCONT": 18, "SIGURG": 23, "SIGWINCH": 28,
	}
}

// signalName returns the name of a signal that is given as a name, with or without SIG, or as a number.
func signalName(text string) (string, error) {
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if _, ok := signals()[name]; ok {
		return name, nil
	}
	if n, err := strconv.Atoi(text); err == nil {
		for known, number := range signals() {
			if number == n {
				return known, nil
			}
		}
	}
	return "", invalid("%.40q is not a signal; SIGTERM, SIGINT, SIGKILL, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are among those there are", text)
}

// signalNumber returns the number of a signal's name; 0 if nobody knows it.
func signalNumber(name string) int { return signals()[name] }

// anySignal is a signal in a body: a name or a number.
type anySignal string

// UnmarshalJSON implements json.Unmarshaler.
func (s *anySignal) UnmarshalJSON(data []byte) error {
	var text string
	if string(data) == "null" {
		return nil
	}
	if json.Unmarshal(data, &text) != nil {
		if _, err := strconv.Atoi(string(data)); err != nil {
			return invalid("a signal is a name such as \"SIGTERM\" or a number")
		}
		text = string(data)
	}
	if text == "" {
		return nil
	}
	name, err := signalName(text)
	*s = anySignal(name)
	return err
}
