/* Computes with every kind of number that a compiler knows and prints the bits of the results:
 * equal, natively and in the guest. Without a C library: only system calls and the processor.
 * As a 32-bit program it runs in compatibility mode. */

typedef unsigned char u8;
typedef long long i64;
typedef unsigned long long u64;

#define STEPS 400

#ifdef __i386__

#define SYS_WRITE 4
#define SYS_EXIT 1

static long syscall3(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("int $0x80"
                   : "=a"(result)
                   : "a"(number), "b"(a), "c"(b), "d"(c)
                   : "memory");
  return result;
}

#else

#define SYS_WRITE 1
#define SYS_EXIT 60

static long syscall3(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c)
                   : "rcx", "r11", "memory");
  return result;
}

#endif

/* FNV-1a, so that one wrong bit in one step changes the line. */
static u64 digest;

static void add(const void *value, int length) {
  const u8 *bytes = value;
  for (int i = 0; i < length; i++) digest = (digest ^ bytes[i]) * 0x100000001b3;
}

static void finish(const char *name) {
  char line[64];
  int at = 0;
  while (*name) line[at++] = *name++;
  line[at++] = ' ';
  for (int shift = 60; shift >= 0; shift -= 4)
    line[at++] = "0123456789abcdef"[digest >> shift & 15];
  line[at++] = '\n';
  syscall3(SYS_WRITE, 1, (long)line, at);
  digest = 0xcbf29ce484222325;
}

static u64 seed = 88172645463325252;

static u64 next(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed;
}

/* Between -2^31 and 2^31, with a fraction. */
static double number(void) { return (double)(i64)next() / 4294967296.0; }

#define ARITHMETIC(type, length, name)                      \
  static void name(void) {                                  \
    volatile type sum = 0, product = 1;                     \
    for (int i = 0; i < STEPS; i++) {                       \
      type a = (type)number(), b = (type)number();          \
      type results[] = {a + b, a - b, a * b, a / b, -a};    \
      for (int j = 0; j < 5; j++) add(&results[j], length); \
      sum += a / b;                                         \
      product *= 1 + a / (b * 1000);                        \
      i64 whole = (i64)a;                                   \
      type back = (type)(whole * 3);                        \
      int order = (a < b) | (a == b) << 1 | (a != a) << 2;  \
      add(&whole, 8), add(&back, length), add(&order, 4);   \
      type s = (type)sum, p = (type)product;                \
      add(&s, length), add(&p, length);                     \
    }                                                       \
    finish(#name);                                          \
  }

ARITHMETIC(float, 4, floats)
ARITHMETIC(double, 8, doubles)
/* The other six bytes are padding. */
ARITHMETIC(long double, 10, extended)

static void roots(void) {
  for (int i = 0; i < STEPS; i++) {
    double a = number();
    long double x = a < 0 ? -a : a, y = (long double)number() / 3, r, q;
    double d;
    __asm__("fsqrt" : "=t"(r) : "0"(x));
    add(&r, 10);
    __asm__("frndint" : "=t"(r) : "0"(y));
    add(&r, 10);
    do {
      unsigned short status;
      __asm__("fprem\n fnstsw %1" : "+t"(x), "=a"(status) : "u"(y / 65536) : "cc");
      if (!(status & 0x400)) break;
    } while (1);
    add(&x, 10);
    __asm__("fscale" : "=t"(q) : "0"(y), "u"((long double)(i - 200)));
    add(&q, 10);
    __asm__("sqrtsd %1, %0" : "=x"(d) : "x"(a < 0 ? -a : a));
    add(&d, 8);
  }
  finish("roots");
}

/* Small enough to be denormal, and large enough to overflow. */
static void extremes(void) {
  volatile double small = 1e-300, large = 1e300;
  volatile float tiny = 1e-38f;
  for (int i = 0; i < 60; i++) {
    small = small / 3.7, large = large * 1.9, tiny = tiny / 1.3f;
    double a = small, b = large, c = small * large;
    float f = (float)large, t = tiny;
    add(&a, 8), add(&b, 8), add(&c, 8), add(&f, 4), add(&t, 4);
  }
  finish("extremes");
}

#ifdef __i386__

static void integers(void) {
  for (int i = 0; i < STEPS; i++) {
    u64 a = next(), b = next();
    unsigned low = (unsigned)a, divisor = (unsigned)b | 1;
    int quotient = (int)low / (int)(divisor >> 9 | 1), rest = (int)low % (int)(divisor >> 9 | 1);
    unsigned shift = (unsigned)b & 31;
    u64 wide[] = {a + b, a - b, a * b, a << shift, (u64)((i64)a >> shift), (u64)low * divisor};
    unsigned bits[] = {low / divisor, low % divisor, low << shift | low >> (-shift & 31),
                       __builtin_bswap32(low), (unsigned)(a > b) - (unsigned)((i64)a < (i64)b)};
    add(&quotient, 4), add(&rest, 4), add(wide, sizeof wide), add(bits, sizeof bits);
  }
  finish("integers");
}

#else

typedef unsigned __int128 u128;

static void integers(void) {
  u128 product = 1;
  for (int i = 0; i < STEPS; i++) {
    u64 a = next(), b = next() | 1;
    u128 wide = (u128)a * b;
    product = product * (wide | 1) + b;
    i64 quotient = (i64)a / (i64)(b >> 20), rest = (i64)a % (i64)(b >> 20);
    int shift = (int)(b & 63);
    u64 bits[] = {a << shift | a >> (-shift & 63), (u64)((i64)a >> shift),
                  __builtin_bswap64(a), (u64)__builtin_ctzll(b << shift | 1ull << 63),
                  (u64)__builtin_clzll(b >> shift | 1), (u64)(a > b) - (u64)(a < b)};
    add(&wide, 16), add(&quotient, 8), add(&rest, 8), add(bits, sizeof bits);
  }
  add(&product, 16);
  finish("integers");
}

#endif

typedef float floats4 __attribute__((vector_size(16)));
typedef int ints4 __attribute__((vector_size(16)));
typedef short shorts8 __attribute__((vector_size(16)));
typedef u8 bytes16 __attribute__((vector_size(16)));

static void vectors(void) {
  floats4 f = {1, 2, 3, 4};
  ints4 n = {5, 6, 7, 8};
  shorts8 s = {1, -2, 3, -4, 5, -6, 7, -8};
  bytes16 b = {0};
  for (int i = 0; i < STEPS; i++) {
    float x = (float)number();
    f = f * 0.75f + (floats4){x, -x, x / 3, 1 / x};
    n = n * 1103515245 + __builtin_convertvector(f, ints4);
    s = (s * 31 - 7) ^ (s > 0);
    b = (b + (bytes16){1, 2, 3, 4, 5}) * 3;
    b = __builtin_shuffle(b, (bytes16)s);
    add(&f, 16), add(&n, 16), add(&s, 16), add(&b, 16);
  }
  finish("vectors");
}

__attribute__((force_align_arg_pointer)) void _start(void) {
  digest = 0xcbf29ce484222325;
  floats(), doubles(), extended(), roots(), extremes(), integers(), vectors();
  syscall3(SYS_EXIT, 0, 0, 0);
}
