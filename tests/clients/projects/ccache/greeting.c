#include <stdio.h>

int main(void) {
    puts("hello, build cache");
    return 0;
}
