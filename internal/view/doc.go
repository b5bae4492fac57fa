// Package view looks at memory in ways that Go has no word for: the bytes of a string without copying them, and a box of 16 bytes
// that holds bytes, a pointer to a value, or a number, without the garbage collector seeing which. Beside internal/atonce it is the
// one place of the module that uses package unsafe, so that the pure packages do not have to; it does nothing else.
package view
