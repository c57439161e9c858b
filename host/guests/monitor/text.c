/* The few functions of a C library that the monitor needs. */
#include "monitor.h"

bool same(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

bool parse_number(const char *text, uint64_t *value) {
  uint64_t n = 0;
  if (!*text) return false;
  for (; *text; text++) {
    if (*text < '0' || *text > '9' || n > (UINT64_MAX - 9) / 10) return false;
    n = n * 10 + (*text - '0');
  }
  *value = n;
  return true;
}

bool bytes_equal(const void *a, const void *b, size_t size) {
  const uint8_t *x = a, *y = b;
  while (size && *x == *y) x++, y++, size--;
  return !size;
}

/* The compiler may call these of its own accord. */
void *memset(void *to, int value, size_t size) {
  void *start = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
  return start;
}
void *memcpy(void *to, const void *from, size_t size) {
  void *start = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
  return start;
}
