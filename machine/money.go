package machine

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
)

// Money is an amount in millionths of a US dollar. It is a whole number, so that sums are exact: no amount is ever a
// floating-point number. In text and JSON it is a decimal number of dollars with at most six digits behind the point.
type Money int64

// Dollar is one US dollar.
const Dollar Money = 1_000_000

// MaxMoney is the largest amount that text may name: a billion dollars, so that sums of many cannot overflow.
const MaxMoney = 1_000_000_000 * Dollar

// String returns the amount in dollars, without a sign for the currency: "0.50", "0.003048". It has two digits behind the
// point, or as many more as the amount needs.
func (m Money) String() string { return decimal(int64(m), 6) }

// MarshalText writes the amount as String does. JSON has it as a string, because a number would be read as a
// floating-point one.
func (m Money) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads an amount in dollars. Errors are those of [ParseMoney].
func (m *Money) UnmarshalText(text []byte) error {
	parsed, err := ParseMoney(string(text))
	if err != nil {
		return err
	}
	*m = parsed
	return nil
}

// UnmarshalJSON reads a string such as "0.50", or a number, digit by digit. Errors are those of [ParseMoney].
func (m *Money) UnmarshalJSON(data []byte) error {
	text := strings.TrimSpace(string(data))
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
	}
	return m.UnmarshalText([]byte(text))
}

// ParseMoney reads an amount of dollars such as "5", "0.50" or "0.000001". What is negative, has more than six digits
// behind the point, is above MaxMoney, or is no decimal number at all is fault.Invalid.
func ParseMoney(text string) (Money, error) {
	n, err := parseDecimal(text, 6)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: %.40q is not an amount of US dollars such as \"0.50\": %w", fault.Invalid, text, err)
	case Money(n) > MaxMoney:
		return 0, fmt.Errorf("%w: %.40q is more than a billion dollars", fault.Invalid, text)
	}
	return Money(n), nil
}

// decimal writes a whole number of the last of so many decimal places.
func decimal(n int64, places int) string {
	sign := ""
	magnitude := uint64(n)
	if n < 0 {
		sign, magnitude = "-", -magnitude
	}
	unit := uint64(math.Pow10(places))
	fraction := fmt.Sprintf("%0*d", places, magnitude%unit)
	for len(fraction) > 2 && fraction[len(fraction)-1] == '0' {
		fraction = fraction[:len(fraction)-1]
	}
	return sign + strconv.FormatUint(magnitude/unit, 10) + "." + fraction
}

// parseDecimal reads what decimal writes, with fewer digits or none behind the point, and says what is wrong.
func parseDecimal(text string, places int) (int64, error) {
	whole, fraction, point := strings.Cut(text, ".")
	digits := func(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
	switch {
	case strings.HasPrefix(text, "-"):
		return 0, fmt.Errorf("it is negative")
	case !digits(whole) || point && !digits(fraction):
		return 0, fmt.Errorf("it must be digits, with a point and more digits if need be")
	case len(fraction) > places:
		return 0, fmt.Errorf("it has %d digits behind the point; at most %d count", len(fraction), places)
	}
	n, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", places-len(fraction)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("it is too large")
	}
	return n, nil
}
