package app

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/pricelist"
	"github.com/dayfly-run/dayfly/machine"
)

// pricer returns what knows the prices of a provider's machines: the configuration, if it says any; the provider itself; or
// the public price list of its kind. It is nil when nobody does.
func (b backend) pricer(p machine.Provider) machine.Pricer {
	if b.prices != (machine.OwnPrices{}) {
		return b.prices
	}
	if itself, ok := p.(machine.Pricer); ok {
		return itself
	}
	list, _ := pricelist.ByKind(b.name)
	return list
}

// isDecimal reports whether keys of a type are decimal numbers: amounts of money and prices. They are written as texts, because
// a number with a point is a floating-point one, and that is seldom what was written.
func isDecimal(t reflect.Type) bool {
	return t == reflect.TypeFor[dayfly.Money]() || t == reflect.TypeFor[machine.Rate]()
}

// describeDecimal says what is wrong with a text that stands where a decimal number should.
func describeDecimal(t reflect.Type, text string) string {
	said := decimalProblem(t, text).Error()
	if _, why, found := strings.Cut(said, ": it "); found {
		return fmt.Sprintf("is the text %q, and %s", text, "it "+why)
	}
	return "is " + describe(text)
}

// decimalProblem says what is wrong with the text of a decimal number, or returns nil.
func decimalProblem(t reflect.Type, text string) error {
	if t == reflect.TypeFor[machine.Rate]() {
		return new(machine.Rate).UnmarshalText([]byte(text))
	}
	return new(dayfly.Money).UnmarshalText([]byte(text))
}
